package guestfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// A partition is part of a disk, or all of it.
type partition struct {
	FileSystem
	Usage        string // as blkid tells it: filesystem, raid, crypto, other
	file         string // the disk
	offset, size int64  // bytes; size 0 is the rest
}

// partitionsOf lists the partitions of a disk, and what is in them.
func partitionsOf(ctx context.Context, target, file string) ([]partition, error) {
	whole, err := probe(ctx, file, 0, 0)
	if err != nil {
		return nil, err
	}
	if whole["PTTYPE"] == "" {
		return []partition{{FileSystem{target, whole["TYPE"]}, whole["USAGE"], file, 0, 0}}, nil
	}
	table, err := tableOf(ctx, file)
	if err != nil {
		return nil, err
	}
	var all []partition
	for _, t := range table.Partitions {
		p := partition{file: file, offset: t.Start * table.SectorSize, size: t.Size * table.SectorSize}
		if p.offset <= 0 || p.size <= 0 || t.Start > 1<<50 || t.Size > 1<<50 {
			continue
		}
		found, err := probe(ctx, file, p.offset, p.size)
		if err != nil {
			return nil, err
		}
		p.FileSystem, p.Usage = FileSystem{target + t.number(file), found["TYPE"]}, found["USAGE"]
		all = append(all, p)
	}
	return all, nil
}

// A table is what sfdisk tells.
type table struct {
	SectorSize int64   `json:"sectorsize"`
	Partitions []entry `json:"partitions"`
}

type entry struct {
	Node  string `json:"node"`
	Start int64  `json:"start"`
	Size  int64  `json:"size"`
}

// number is what follows the name of the disk.
func (e *entry) number(file string) string {
	return strings.TrimPrefix(strings.TrimPrefix(e.Node, file), "p")
}

func tableOf(ctx context.Context, file string) (*table, error) {
	out, err := run(ctx, "sfdisk", "--json", file)
	if err != nil {
		return nil, err
	}
	var t struct {
		Table table `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return nil, fmt.Errorf("sfdisk: %w", err)
	}
	if t.Table.SectorSize == 0 { // sfdisk before 2.35
		t.Table.SectorSize = 512
	}
	return &t.Table, nil
}

// nothingFound is blkid's exit status where it knows nothing of what is there.
const nothingFound = 2

// probe asks blkid what is at a place of a file.
func probe(ctx context.Context, file string, offset, size int64) (map[string]string, error) {
	args := []string{"--probe", "--output", "export", "--offset", strconv.FormatInt(offset, 10)}
	if size > 0 {
		args = append(args, "--size", strconv.FormatInt(size, 10))
	}
	out, err := run(ctx, "blkid", append(args, file)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == nothingFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			found[key] = value
		}
	}
	return found, nil
}

// run returns what a program prints.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return out, err
}
