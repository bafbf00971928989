//go:build tools

// Programs of others that `cargo xtask test --only http` runs against mecha; this file makes go.sum know them.
package tools

import (
	_ "github.com/summerwind/h2spec/cmd/h2spec"
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
