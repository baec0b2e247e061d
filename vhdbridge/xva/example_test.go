package xva_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/vhdbridge/xva"
	"github.com/virt-rotate/virt-rotate/vhdbridge/xva/xvatest"
)

// An export is read once, from beginning to end: its disks come in chunks, one disk
// after the other. What does not come is zeros.
func Example() {
	r, err := xva.NewReader(bytes.NewReader(export())) // or a file, or what a host sends
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	for _, d := range r.VM().Disks {
		fmt.Printf("%s: disk %s is %q, %d bytes\n", r.VM().Name, d.Device, d.Name, d.Size)
	}
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			break // all disks were there to their last byte
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %d bytes at %d begin with %q\n", c.Disk.Name, len(c.Data), c.Offset, c.Data[:4])
	}
	// Output:
	// web: disk 0 is "root", 3145728 bytes
	// root: 1048576 bytes at 0 begin with "boot"
	// root: 1048576 bytes at 2097152 begin with "last"
}

// Kinds of errors are the same for all formats.
func ExampleFormatError() {
	whatIs := func(b []byte) {
		r, err := xva.NewReader(bytes.NewReader(b))
		for err == nil {
			_, err = r.Next()
		}
		var malformed *xva.FormatError
		switch {
		case errors.Is(err, io.EOF):
			fmt.Println("a whole export")
		case errors.Is(err, xva.ErrNotThisFormat):
			fmt.Println("another format")
		case errors.As(err, &malformed):
			fmt.Printf("malformed at byte %d: %s\n", malformed.Offset, malformed.Reason)
		}
	}
	whatIs(export())
	whatIs(export()[:2<<20])
	whatIs([]byte("text"))
	// Output:
	// a whole export
	// malformed at byte 2097152: the file ends here: it is cut off
	// another format
}

// export is that of a VM with a disk of 3 MiB.
func export() []byte {
	content := make([]byte, 3<<20)
	copy(content, "boot")
	copy(content[2<<20:], "last")
	disk := xvatest.Disk{ID: "Ref:4", UUID: "4d1b5a0e-7c3f-4f51-9f0e-6a1d2b3c4d5e", Name: "root", Device: "0", Drive: "Disk", Content: content}
	return xvatest.Tar(xvatest.Members("web", false, disk))
}
