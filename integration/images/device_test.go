package images_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/integration/images"
)

// loopDevice is a block device of n bytes.
func loopDevice(t *testing.T, n int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, n); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup, which needs root: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.Background(), "losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("losetup -d: %v: %s", err, out)
		}
	})
	return device
}

func TestLayersOnBlockDevices(t *testing.T) {
	dir := patterns(t)
	top := layer(mib, "cluster_size=4k", "write -s $P/p1 256k 64k", "write -z 512k 64k", "write -s $P/p2 1023k 1k")
	cases := []struct {
		name  string
		size  int64
		layer images.Layer
		above []images.Layer
	}{
		{"raw of the same size", mib, raw(0, fill(0, mib)), []images.Layer{top}},
		{"raw and larger", 2 * mib, raw(0, fill(0, 2*mib)), []images.Layer{top, layer(mib/2+512, "", "write -s $P/p3 0 8k")}},
		{"raw and too small", mib / 2, raw(0, fill(0, mib/2)), []images.Layer{top}},
		{"qcow2", 4 * mib, layer(mib, "", fill(0, mib/2)), []images.Layer{top, layer(2*mib, "", "write -s $P/p3 1M 8k")}},
		{"qcow2 with compressed clusters", 4 * mib, layer(mib, "cluster_size=4k", "write -c -s $P/p1 0 512k"), []images.Layer{
			layer(mib, "cluster_size=4k", "write -c -s $P/p5 256k 512k"), top}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.layer.Device = loopDevice(t, c.size)
			tree := row(append([]images.Layer{c.layer}, c.above...)...)
			driveAll(t, &tree, dir)
		})
	}
}

// TestTopOnABlockDevice: the device stays, since it is not ours to remove.
func TestTopOnABlockDevice(t *testing.T) {
	l := layer(mib, "", "write -s $P/p1 0 64k", "write -z 128k 64k")
	l.Device = loopDevice(t, 4*mib)
	tree := row(layer(mib, "", fill(0, mib)), l, layer(0, "", "write -s $P/p2 0 4k"))
	driveAll(t, &tree, patterns(t))
}

// TestDeviceIsFull: a device that has no room is found out without loss.
func TestDeviceIsFull(t *testing.T) {
	l := layer(4*mib, "", "write -s $P/p1 0 64k")
	l.Device = loopDevice(t, mib)
	tree := row(l, layer(0, "", fill(2, 2*mib)))
	b, err := newBench(t.Context(), t.TempDir(), patterns(t), &tree, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	o := op{Kind: "commit", Layer: 1, Base: 0, Stop: -1, Die: -1}
	if err := b.runAll(t.Context(), &o); err == nil {
		t.Fatal("2 MiB have gone into a device of 1 MiB")
	}
	s := o.during(b)
	if err := b.verify(t.Context(), s); err != nil {
		t.Error(err)
	}
}
