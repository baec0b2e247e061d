package hosttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// What a guest has in its memory is what it believes to be on its disks: it may go on from there only
// where they read like that.

const (
	memoryPart = "half a memory"
	memoryMark = "memory of "
)

// SnapshotWithMemory writes the memory in two parts, lets the guest run until the second, and keeps the
// disks of the moment of that.
func (h *Host) SnapshotWithMemory(ctx context.Context, domain string, spec host.SnapshotSpec, tell host.MemoryEvents) error {
	d := h.Find(domain)
	err := h.call("memory", func() error {
		switch info, err := os.Stat(spec.Memory.Path); {
		case err != nil:
			return err
		case info.Size() != 0:
			return fmt.Errorf("%s: not an empty file", spec.Memory.Path)
		case d.Immovable != nil:
			return d.Immovable
		}
		if !spec.Memory.Live {
			d.State = host.Paused
		}
		return os.WriteFile(spec.Memory.Path, []byte(memoryPart), 0o600)
	})
	if err != nil {
		return err
	}
	if tell.Progress != nil {
		tell.Progress(1, spec.Memory.Size)
	}
	if err := h.call("pause", func() error { d.pauseIf(spec.Memory.Runs); return nil }); err != nil {
		return err
	}
	err = h.call("snapshot with memory", func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		text, err := json.Marshal(d.Want)
		Must(err)
		Must(os.WriteFile(spec.Memory.Path, []byte(memoryMark+d.UUID+" "+string(text)), 0o600))
		return h.take(d, spec)
	})
	if resumed := h.Resume(ctx, domain); err == nil {
		err = resumed
	}
	if tell.Stood != nil {
		tell.Stood(20 * time.Millisecond)
	}
	return err
}

func (d *Domain) pauseIf(runs bool) {
	if runs {
		d.State = host.Paused
	}
}

// GoOn lets the guest go on: it has to find its disks as they were.
func (h *Host) GoOn(_ context.Context, domain, memory string, chains map[string][]host.Layer) error {
	return h.call("go on", func() error {
		d := h.Find(domain)
		knows, err := remembered(d, memory)
		switch {
		case err != nil:
			return err
		case d.State.Live():
			return errors.New("the domain runs already")
		case d.Forgets:
			return errors.New("operation failed: the machine does not fit")
		}
		for target, blocks := range knows {
			if have, want := host.Paths(chains[target]), host.Paths(host.DiskOf(&d.Domain, target).Chain); !slices.Equal(have, want) {
				return fmt.Errorf("%s would be on %v, the domain has %v", target, h.Short(have), h.Short(want))
			}
			top := chains[target][len(chains[target])-1].Path
			if is := h.Read(top); !maps.Equal(is, blocks) {
				return fmt.Errorf("%s has %v where the guest's memory has %v: its file system is destroyed", target, is, blocks)
			}
		}
		d.State, d.WentOn = host.Running, memory
		return nil
	})
}

// RehearseGoOn sees that the file has a memory of the domain.
func (h *Host) RehearseGoOn(_ context.Context, domain, memory string) error {
	return h.call("rehearse memory", func() error {
		_, err := remembered(h.Find(domain), memory)
		return err
	})
}

// remembered is what the guest believes to be on its disks.
func remembered(d *Domain, memory string) (map[string]Blocks, error) {
	text, err := os.ReadFile(memory)
	if err != nil {
		return nil, err
	}
	rest, whole := strings.CutPrefix(string(text), memoryMark+d.UUID+" ")
	if !whole {
		return nil, fmt.Errorf("%s: it is no memory of the domain", memory)
	}
	knows := map[string]Blocks{}
	return knows, json.Unmarshal([]byte(rest), &knows)
}

// HasMemory tells whether the file has the memory that the guest had at its snapshot, all of it.
func (h *Host) HasMemory(d *Domain, s *host.Snapshot) error {
	knows, err := remembered(d, s.Memory)
	if err != nil {
		return err
	}
	for target, blocks := range d.States[s.Name] {
		if !maps.Equal(knows[target], blocks) {
			return fmt.Errorf("%s: %s: the memory has %v, the disk %v", s.Name, target, knows[target], blocks)
		}
	}
	return nil
}
