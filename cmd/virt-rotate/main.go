// Command virt-rotate keeps rolling snapshots of libvirt guests.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
