package cli

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Limits of what an image that claims too much may cost.
const (
	greedyTime   = 5 * time.Second
	greedyMemory = 256 << 20
)

// A greedy image is small and claims to be huge.
type greedy struct {
	name        string
	clusterBits uint32
	l1          int // entries
	tables      int // L2 tables that they lead to, in turn
	entry       func(i int, data int64) uint64
	data        []byte
	snapshots   uint32
}

func greedyImages(t *testing.T) []greedy {
	t.Helper()
	alternate := func(i int, data int64) uint64 { return uint64(i%2) * (uint64(data) | 1<<63) }
	var zeros bytes.Buffer
	w, err := flate.NewWriter(&zeros, flate.BestCompression)
	if err == nil {
		_, err = w.Write(make([]byte, 2<<20))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	sectors := uint64(zeros.Len()+511) / 512
	bomb := func(_ int, data int64) uint64 { return 1<<62 | (sectors-1)<<(62-(21-8)) | uint64(data) }
	return []greedy{
		{"one table in small clusters", 9, 4 << 20, 1, alternate, nil, 0},
		{"one table in large clusters", 21, 4 << 20, 1, alternate, nil, 0},
		{"few tables", 16, 4 << 20, 100, alternate, nil, 0},
		{"one compressed cluster", 21, 8, 8, bomb, zeros.Bytes(), 0},
		{"60000 snapshots", 16, 4 << 20, 1, func(int, int64) uint64 { return 0 }, nil, 60000},
	}
}

// write makes the image: header, refcount table and block, L1, L2, data, snapshots.
func (g greedy) write(t *testing.T, path string) {
	t.Helper()
	cluster := int64(1) << g.clusterBits
	l1At := 4 * cluster
	l2At := l1At + (int64(g.l1)*8+cluster-1)/cluster*cluster
	data := l2At + int64(g.tables)*cluster
	snapAt := data + 8*cluster
	size := uint64(g.l1) * uint64(cluster/8) * uint64(cluster)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	b, at := bufio.NewWriter(f), int64(0) // not in memory: what this process needs counts for its children
	put := func(v ...any) {
		for _, x := range v {
			p, err := binary.Append(nil, binary.BigEndian, x)
			n, werr := b.Write(p)
			if at += int64(n); err != nil || werr != nil {
				t.Fatal(err, werr)
			}
		}
	}
	pad := func(to int64) { put(make([]byte, to-at)) }
	put([]byte("QFI\xfb"), uint32(3), uint64(0), uint32(0), g.clusterBits, size, uint32(0), uint32(g.l1), l1At, cluster, uint32(1),
		g.snapshots, snapAt, uint64(0), uint64(0), uint64(0), uint32(4), uint32(104))
	pad(cluster)
	put(2 * cluster)
	pad(2 * cluster)
	for range cluster / 2 {
		put(uint16(1))
	}
	pad(l1At)
	for i := range g.l1 {
		put(uint64(l2At+int64(i%g.tables)*cluster) | 1<<63)
	}
	pad(l2At)
	for range g.tables {
		for i := range int(cluster / 8) {
			put(g.entry(i, data))
		}
	}
	put(g.data)
	pad(snapAt)
	for range g.snapshots {
		put(l1At, uint32(g.l1), uint16(1), uint16(1), uint32(0), uint32(0), uint64(0), uint32(0), uint32(16), uint64(0), size, []byte("1n\x00\x00\x00\x00\x00\x00"))
	}
	pad((at/cluster + 2) * cluster)
	if err := errors.Join(b.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestImagesThatClaimTooMuchCostLittle(t *testing.T) {
	source, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	binary := filepath.Join(t.TempDir(), "virt-rotate")
	build := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", binary, "github.com/virt-rotate/virt-rotate/cmd/virt-rotate")
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, g := range greedyImages(t) {
		t.Run(g.name, func(t *testing.T) {
			g.write(t, "greedy")
			shell(t, dir, "qemu-img create -q -f qcow2 base 1M; qemu-img create -q -u -f qcow2 -b greedy -F qcow2 top 1M")
			before := treeSum(t, dir)
			for _, line := range []string{"info greedy", "map greedy", "check greedy", "compare greedy greedy", "convert -O qcow2 greedy new",
				"commit top", "pull top", "rebase -b base -F qcow2 top", "rebase -b base -F qcow2 greedy"} {
				g.costs(t, binary, line)
			}
			if treeSum(t, dir) != before {
				t.Error("files have changed")
			}
		})
	}
}

// costs runs a command on the image, which it refuses unless it reads the header only.
func (g greedy) costs(t *testing.T, binary, line string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"image"}, strings.Fields(line)...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	peak, err := peakMemory(cmd.Process.Pid, ended)
	took := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if peak > greedyMemory || peak == 0 || took > greedyTime {
		t.Errorf("%s: %v, %d MiB", line, took, peak>>20)
	}
	if (err == nil) != strings.HasPrefix(line, "info") || strings.Contains(errs.String(), "goroutine ") {
		t.Errorf("%s: %v, %s", line, err, errs.String())
	}
}

// peakMemory is the most that the process has needed, in bytes, as long as it could be
// asked: what wait tells of a child counts what its parent had, too.
func peakMemory(pid int, ended chan error) (peak int64, err error) {
	for {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok && strings.HasPrefix(string(status), "Name:\tvirt-rotate") {
			var kib int64
			if _, err := fmt.Sscan(after, &kib); err == nil {
				peak = max(peak, kib<<10)
			}
		}
		select {
		case err := <-ended:
			return peak, err
		case <-time.After(time.Millisecond):
		}
	}
}
