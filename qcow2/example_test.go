package qcow2_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/virt-rotate/virt-rotate/qcow2"
)

// A disk is read through its chain. What an image names as its backing file is followed
// only where the caller lets it: here within one directory, and in two formats.
func Example() {
	root, err := os.OpenRoot("testdata")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer root.Close()

	open := func(name, format string) (qcow2.Source, error) {
		f, err := root.Open(name)
		if err != nil {
			return nil, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		switch format {
		case "qcow2":
			return qcow2.NewReader(f, info.Size(), nil)
		case "raw":
			return qcow2.NewRawReader(f, info.Size())
		}
		return nil, fmt.Errorf("format %q is not read here", format)
	}

	top, err := open("overlay.qcow2", "qcow2")
	if err != nil {
		fmt.Println(err)
		return
	}
	disk, err := qcow2.OpenDisk(top, open)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer disk.Close()

	var b [4]byte
	if _, err := disk.ReadAt(b[:], 4096); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes in %d layers; at 4096: %v\n", disk.Size(), len(disk.Layers()), b)
	// Output:
	// 65536 bytes in 2 layers; at 4096: [7 7 7 7]
}

// The header alone tells what an image is and what it builds on.
func ExampleReadHeader() {
	f, err := os.Open("testdata/overlay.qcow2")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	h, err := qcow2.ReadHeader(f, info.Size())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("version %d, %d bytes in clusters of %d, on %q (%s)\n",
		h.Version, h.Size, h.ClusterSize(), h.BackingFile, h.BackingFormat)
	// Output:
	// version 3, 65536 bytes in clusters of 512, on "v3.qcow2" (qcow2)
}

// Extents tell what an image has itself, and where its bytes are in the file.
func ExampleExtents() {
	f, err := os.Open("testdata/overlay.qcow2")
	if err != nil {
		fmt.Println(err)
		return
	}
	info, err := f.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	image, err := qcow2.NewReader(f, info.Size(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer image.Close() // closes f
	for x, err := range qcow2.Extents(image) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%5d %5d %s\n", x.Offset, x.Length, x.Kind)
	}
	// Output:
	//     0  4096 hole
	//  4096   512 data
	//  4608 60928 hole
}

// A check needs no more than the bytes. What is wrong with the image is in the result.
func ExampleCheckReader() {
	b, err := os.ReadFile("testdata/v3.qcow2")
	if err != nil {
		fmt.Println(err)
		return
	}
	b[512*2+1]++ // a refcount, in the block after the refcount table

	r := strings.NewReader(string(b))
	res, err := qcow2.CheckReader(r, r.Size())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.Corruptions, "corruptions,", res.Leaks, "leaks")
	for _, p := range res.Problems {
		fmt.Println(p)
	}
	// Output:
	// 0 corruptions, 1 leaks
	// offset 0: cluster: refcount 2, 1 references
}

// A new image is made in anything that has the five methods of File: here in memory. A
// Writer fills it from the beginning of the disk to its end.
func ExampleCreate() {
	f := &memory{}
	if err := qcow2.Create(f, qcow2.CreateOptions{Size: 1 << 20}); err != nil {
		fmt.Println(err)
		return
	}
	image, err := qcow2.Open(f, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	w, err := qcow2.NewWriter(image)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := io.Copy(io.NewOffsetWriter(w, 512<<10), strings.NewReader("hello")); err != nil {
		fmt.Println(err)
		return
	}
	if err := w.Flush(); err != nil {
		fmt.Println(err)
		return
	}
	var b [5]byte
	if _, err := image.ReadAt(b[:], 512<<10); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s; a file of %d bytes\n", b, len(f.b))
	// Output:
	// hello; a file of 393216 bytes
}

// Files of the operating system can do more than the five methods of File, and OSFile
// makes use of it: a new image takes up space only for what is written.
func ExampleOSFile() {
	f, err := os.CreateTemp("", "example-*.qcow2")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(f.Name())
	file, err := qcow2.OSFile(f)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := qcow2.Create(file, qcow2.CreateOptions{Size: 10 << 30}); err != nil {
		fmt.Println(err)
		return
	}
	image, err := qcow2.Open(file, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer image.Close() // closes f
	length, err := file.Size()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("a disk of %d bytes in a file of %d\n", image.Header().Size, length)
	// Output:
	// a disk of 10737418240 bytes in a file of 262144
}

// A commit merges what is above a layer into it. That layer is opened for writing, the
// others need not be.
func ExampleOpenDisk_commit() {
	base, overlay := &memory{}, &memory{}
	newImage(base, "base ", qcow2.CreateOptions{Size: 1 << 20})
	newImage(overlay, "above", qcow2.CreateOptions{Size: 1 << 20, Backing: "base.qcow2", BackingFormat: "qcow2"})

	top, err := qcow2.NewReader(overlay, int64(len(overlay.b)), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	disk, err := qcow2.OpenDisk(top, func(name, format string) (qcow2.Source, error) {
		return qcow2.Open(base, nil) // there is no other
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

// Three kinds of errors are told apart, the same for all formats.
func ExampleFormatError() {
	whatIs := func(b string) {
		_, err := qcow2.NewReader(strings.NewReader(b), int64(len(b)), nil)
		var malformed *qcow2.FormatError
		var unsupported *qcow2.UnsupportedError
		switch {
		case errors.Is(err, qcow2.ErrNotThisFormat):
			fmt.Println("another format")
		case errors.As(err, &malformed):
			fmt.Printf("malformed: %s at byte %d: %s\n", malformed.Field, malformed.Offset, malformed.Reason)
		case errors.As(err, &unsupported):
			fmt.Println("not supported:", unsupported.Feature)
		case err != nil:
			fmt.Println("cannot be read:", err)
		}
	}
	whatIs("\x7fELF and so on")
	whatIs("QFI\xfb\x00\x00\x00\x07" + strings.Repeat("\x00", 200))
	whatIs("QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\x00", 12) + "\x00\x00\x00\x03" + strings.Repeat("\x00", 200))
	// Output:
	// another format
	// not supported: version 7
	// malformed: cluster_bits at byte 20: not in 9..21
}
