package vhd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/virt-rotate/virt-rotate/vhdbridge/vhd"
)

// A disk is read through its chain of VHDs. A parent is found by the name in the child,
// which the caller follows or not, and has to have the UUID that the child notes.
func Example() {
	parent, child := &memory{}, &memory{}
	newImage(parent, "hello, parent", vhd.CreateOptions{Size: 4 << 20, UUID: vhd.UUID{1}})
	newImage(child, "hello, child ", vhd.CreateOptions{Size: 4 << 20, UUID: vhd.UUID{2},
		Backing: "parent.vhd", BackingFormat: "vhd", ParentID: vhd.UUID{1}.String()})

	directory := map[string]*memory{"parent.vhd": parent, "child.vhd": child}
	open := func(name, format string) (vhd.Source, error) {
		f := directory[strings.TrimPrefix(name, "./")]
		if f == nil || format != "vhd" {
			return nil, fmt.Errorf("%q of format %q is not here", name, format)
		}
		return vhd.NewReader(f, int64(len(f.b)))
	}

	top, err := open("child.vhd", "vhd")
	if err != nil {
		fmt.Println(err)
		return
	}
	disk, err := vhd.OpenDisk(top, open)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer disk.Close()

	var b [13]byte
	if _, err := disk.ReadAt(b[:], 0); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes in %d layers: %s\n", disk.Size(), len(disk.Layers()), b)
	// Output:
	// 4194304 bytes in 2 layers: hello, child
}

// Footer and header tell what an image is, and what it builds on.
func ExampleReadInfo() {
	f := &memory{}
	newImage(f, "data", vhd.CreateOptions{Size: 4 << 20, UUID: vhd.UUID{2},
		Backing: "parent.vhd", BackingFormat: "vhd", ParentID: vhd.UUID{1}.String()})

	i, err := vhd.ReadInfo(f, int64(len(f.b)))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, %d bytes in blocks of %d, on %q\n", i.Type, i.Size, i.BlockSize, i.ParentPath)
	// Output:
	// differencing, 4194304 bytes in blocks of 2097152, on "parent.vhd"
}

// Extents tell what an image has itself, sector by sector.
func ExampleExtents() {
	f := &memory{}
	newImage(f, strings.Repeat("data", 256), vhd.CreateOptions{Size: 4 << 20})

	image, err := vhd.NewReader(f, int64(len(f.b)))
	if err != nil {
		fmt.Println(err)
		return
	}
	for x, err := range vhd.Extents(image) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%7d %7d %s\n", x.Offset, x.Length, x.Kind)
	}
	// Output:
	//       0    1024 data
	//    1024 2096128 hole
	// 2097152 2097152 hole
}

// A check needs no more than the bytes; a repair needs a File.
func ExampleCheck() {
	f := &memory{}
	newImage(f, "data", vhd.CreateOptions{Size: 4 << 20})
	copy(f.b, "a stray write") // over the copy of the footer

	res, err := vhd.CheckReader(f, int64(len(f.b)))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range res.Problems {
		fmt.Println(p)
	}
	if res, err = vhd.Check(f, vhd.RepairAll); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.CorruptionsFixed, "repaired,", res.Corruptions, "left")
	// Output:
	// offset 0: copy of the footer: it is missing or damaged
	// 1 repaired, 0 left
}

// A commit merges what is above a layer into it, which is how a chain is coalesced.
func ExampleOpenDisk_commit() {
	parent, child := &memory{}, &memory{}
	newImage(parent, "below", vhd.CreateOptions{Size: 4 << 20, UUID: vhd.UUID{1}})
	newImage(child, "above", vhd.CreateOptions{Size: 4 << 20,
		Backing: "parent.vhd", BackingFormat: "vhd", ParentID: vhd.UUID{1}.String()})

	top, err := vhd.NewReader(child, int64(len(child.b)))
	if err != nil {
		fmt.Println(err)
		return
	}
	disk, err := vhd.OpenDisk(top, func(name, format string) (vhd.Source, error) {
		return vhd.Open(parent) // there is no other
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer disk.Close()
	if err := disk.Commit(context.Background(), 0, nil); err != nil {
		fmt.Println(err)
		return
	}
	var b [5]byte
	if _, err := disk.Layers()[0].ReadAt(b[:], 0); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d layer: %s\n", len(disk.Layers()), b)
	// Output:
	// 1 layer: above
}

// Kinds of errors are the same for all formats.
func ExampleFormatError() {
	f := &memory{}
	newImage(f, "data", vhd.CreateOptions{Size: 4 << 20})
	cut := f.b[:2048] // the one block is beyond that, and the footer at the end

	_, err := vhd.NewReader(strings.NewReader(string(cut)), int64(len(cut)))
	var malformed *vhd.FormatError
	if errors.As(err, &malformed) {
		fmt.Printf("%s at byte %d: %s\n", malformed.Field, malformed.Offset, malformed.Reason)
	}
	_, err = vhd.NewReader(strings.NewReader("text"), 4)
	fmt.Println(errors.Is(err, vhd.ErrNotThisFormat), err)
	// Output:
	// block allocation table at byte 1536: the block is beyond the end of the file, or over its beginning
	// true not a VHD image
}
