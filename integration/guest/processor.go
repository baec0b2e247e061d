package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A processor is one that libvirt's clients are pinned to.
type processor struct {
	cpu int
	// capabilities are libvirt's cache files, which each new host starts with. To get
	// them QEMU is probed on this processor, once a process, for some seconds.
	capabilities func() (map[string][]byte, error)
}

// processors are those that this process may run on.
var processors = sync.OnceValues(func() (list []*processor, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			list = append(list, &processor{cpu, sync.OnceValues(func() (map[string][]byte, error) { return probe(cpu) })})
		}
	}
	if list == nil {
		return nil, errors.New("no CPU to run on")
	}
	return list, nil
})

// hosts counts the hosts that have got a processor.
var hosts atomic.Uint64

// nextProcessor has hosts share the processors evenly.
func nextProcessor() (*processor, error) {
	list, err := processors()
	if err != nil {
		return nil, err
	}
	return list[(hosts.Add(1)-1)%uint64(len(list))], nil
}

// probe has libvirt ask QEMU what it can do, and returns the cache files.
func probe(cpu int) (caps map[string][]byte, err error) {
	dir, err := os.MkdirTemp("", "vr-")
	if err != nil {
		return nil, err
	}
	h, err := prepareHost(dir, embedded(dir), new(sync.Mutex), cpu, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if _, err := h.Virsh(context.Background(), "domcapabilities", "--virttype", "qemu"); err != nil {
		return nil, err
	}
	return readDir(filepath.Join(dir, capsDir))
}

func readDir(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	files := map[string][]byte{}
	for _, e := range entries {
		data, readErr := os.ReadFile(filepath.Join(dir, e.Name()))
		err = errors.Join(err, readErr)
		files[e.Name()] = data
	}
	return files, err
}
