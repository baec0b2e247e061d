// Command member is a member of an etcd cluster in a virtual machine of make nfs, as its environment says.
package main

import (
	"fmt"
	"os"

	"github.com/virt-rotate/virt-rotate/rotate/coord/etcd/etcdtest"
)

func main() {
	etcdtest.Member()
	fmt.Fprintln(os.Stderr, "member: the environment does not say which")
	os.Exit(2)
}
