package formats

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/imgerr"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

// A Repair says what a check may change.
type Repair int

// What a check may change.
const (
	RepairNone  Repair = iota
	RepairLeaks        // only what takes up space for nothing
	RepairAll
)

// Restorable tells whether an image was refused for a table that a check with RepairAll
// looks for, or makes anew.
func Restorable(err error) bool {
	var bad *imgerr.FormatError
	return errors.As(err, &bad) && qcow2.Restorable(bad)
}

// A Problem is an inconsistency that a check found.
type Problem struct {
	Offset int64 // bytes from the start of the file
	What   string
	Reason string
}

func (p Problem) String() string {
	return fmt.Sprintf("offset %d: %s: %s", p.Offset, p.What, p.Reason)
}

// A CheckResult is what a check found; the JSON keys are qemu-img's. Clusters are what the
// format allocates space in. After a repair Corruptions, Leaks and CheckErrors are what
// remains.
type CheckResult struct {
	Corruptions int64 `json:"corruptions,omitempty"`
	Leaks       int64 `json:"leaks,omitempty"` // clusters, or stretches of the file
	CheckErrors int64 `json:"check-errors"`    // what kept the check from being complete

	CorruptionsFixed int64 `json:"corruptions-fixed,omitempty"`
	LeaksFixed       int64 `json:"leaks-fixed,omitempty"`

	ImageEndOffset     int64 `json:"image-end-offset,omitempty"` // bytes
	TotalClusters      int64 `json:"total-clusters,omitempty"`   // of the disk
	AllocatedClusters  int64 `json:"allocated-clusters,omitempty"`
	FragmentedClusters int64 `json:"fragmented-clusters,omitempty"`
	CompressedClusters int64 `json:"compressed-clusters,omitempty"`

	Problems     []Problem `json:"-"` // the first of ProblemCount
	ProblemCount int64     `json:"-"`

	Repaired []string `json:"repaired,omitempty"` // what was done, as far as the format tells
}
