package vhdtest

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// A Sum is what SHA256SUMS says of one image.
type Sum struct {
	Name, SHA256 string
	Size         int64
}

// testdata is beside this package, wherever the test that asks is.
func testdata() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "testdata")
}

// Samples lists the names of all samples.
func Samples(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(testdata(), "*.tar.zst"))
	if err != nil || len(paths) < 8 {
		t.Fatalf("%d samples: %v", len(paths), err)
	}
	var names []string
	for _, p := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(p), ".tar.zst"))
	}
	return names
}

// Unpack unpacks a sample into a directory of the test, and returns where.
func Unpack(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unpack(filepath.Join(testdata(), name+".tar.zst"), dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = unpackOne(in, h, filepath.Join(dir, filepath.FromSlash(filepath.Clean("/"+h.Name))))
		}
		if err != nil {
			return err
		}
	}
}

// unpackOne leaves holes where there are zeros.
func unpackOne(in io.Reader, h *tar.Header, path string) error {
	if h.Typeflag == tar.TypeDir {
		return os.MkdirAll(path, 0o755)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	b := make([]byte, 4096)
	for off := int64(0); err == nil && off < h.Size; {
		var n int
		n, err = io.ReadFull(in, b[:min(int64(len(b)), h.Size-off)])
		if strings.Trim(string(b[:n]), "\x00") != "" {
			_, err = f.WriteAt(b[:n], off)
		}
		off += int64(n)
	}
	return errors.Join(err, f.Truncate(h.Size), f.Close())
}

// Sums reads SHA256SUMS in dir.
func Sums(t testing.TB, dir string) (sums []Sum) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		words := strings.Fields(in.Text())
		size, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, Sum{words[1], words[0], size})
	}
	if len(sums) == 0 {
		t.Fatal("no sums")
	}
	return sums
}
