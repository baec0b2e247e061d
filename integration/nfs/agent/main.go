// Command agent runs in a virtual machine of make nfs, and does what the test asks of it by the device
// that its argument names.
package main

import (
	"fmt"
	"os"

	"github.com/virt-rotate/virt-rotate/integration/nfs/inside"
)

func main() {
	port, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err == nil {
		err = inside.Serve(port)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}
