//! The `mecha` executable.

fn main() -> std::process::ExitCode {
    mecha::main()
}
