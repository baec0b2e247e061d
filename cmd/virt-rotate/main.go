// Command virt-rotate keeps rolling snapshots of libvirt guests.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	info, _ := debug.ReadBuildInfo()
	code := cli.Run(ctx, versionText(version, commit, date, info), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
