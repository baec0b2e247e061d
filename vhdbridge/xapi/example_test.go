package xapi_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/virt-rotate/virt-rotate/vhdbridge/xapi"
)

// A guest's disks, with all snapshots, as a repository of VHDs.
func Example() {
	pull := func(ctx context.Context, dir string) (err error) {
		c, err := xapi.Dial(ctx, xapi.Config{URL: "https://xen1.example", User: "root", Password: os.Getenv("PASSWORD")})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Logout(ctx)) }()
		inventory, err := c.Inventory(ctx)
		if err != nil {
			return err
		}
		vm, err := inventory.Find("web")
		if err != nil {
			return err
		}
		p := xapi.Puller{Client: c, Dir: dir}
		result, err := p.Pull(ctx, inventory.Plan(vm, nil))
		if err != nil {
			return err
		}
		for _, left := range result.Left {
			fmt.Println(left.VDI, left.Reason)
		}
		return p.Names(inventory)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // there is no such host
	fmt.Println(errors.Is(pull(ctx, "/srv/pulled"), context.Canceled))
	// Output: true
}
