//! Between this process and a server that lacks the version of the protocol that a connection was opened for.

/// Changes both directions of one connection's bytes, so that the server seems to speak that version. It holds back what it
/// needs to see whole.
pub trait Bridge {
    /// Appends to `out` what the server gets in the place of `bytes`, which this process sends.
    fn sent(&mut self, bytes: &[u8], out: &mut Vec<u8>);

    /// Appends to `out` what this process gets in the place of `bytes`, which the server has sent.
    fn received(&mut self, bytes: &[u8], out: &mut Vec<u8>);
}
