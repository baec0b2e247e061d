package formats

import (
	"context"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// CompactOptions say what is given back.
type CompactOptions struct {
	Zeros    bool // data is looked at, and zeros count as nothing
	DryRun   bool
	Progress func(n int64)
}

// A CompactResult is what an image has given back, or would, in bytes.
type CompactResult struct {
	Snapshots int64 `json:"snapshots"` // internal ones, which are all kept
	Zeros     int64 `json:"zeros"`     // data that reads as zeros in every state that has it
	Reserved  int64 `json:"reserved"`  // room that was kept for zeros
	Leaked    int64 `json:"leaked"`    // what nothing refers to, though it was not counted as free
	Unused    int64 `json:"unused"`    // what nothing refers to within the file, all of the above included
	Tail      int64 `json:"tail"`      // what is cut off the end of the file
	Back      int64 `json:"back"`      // what of that took space on the disk

	SizeBefore      int64 `json:"size-before"` // of the file
	SizeAfter       int64 `json:"size-after"`
	AllocatedBefore int64 `json:"allocated-before"` // what the file takes on the disk
	AllocatedAfter  int64 `json:"allocated-after"`
}

func compactQcow2(ctx context.Context, f vfs.File, o CompactOptions) (CompactResult, error) {
	res, err := qcow2.Compact(ctx, f, qcow2.CompactOptions(o))
	return compactResult(res), err
}

func compactQcow2To(ctx context.Context, to, f vfs.File, o CompactOptions) (CompactResult, error) {
	res, err := qcow2.CompactTo(ctx, to, f, qcow2.CompactOptions(o))
	return compactResult(res), err
}

func compactResult(r qcow2.CompactResult) CompactResult {
	return CompactResult{
		Snapshots: r.Snapshots, Zeros: r.Zeros, Reserved: r.Room, Leaked: r.Leaked, Unused: r.Free, Tail: r.Tail, Back: r.Back,
		SizeBefore: r.SizeBefore, SizeAfter: r.SizeAfter, AllocatedBefore: r.AllocatedBefore, AllocatedAfter: r.AllocatedAfter,
	}
}
