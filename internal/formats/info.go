package formats

// Details are what info tells of an image beside its size and its backing file.
type Details struct {
	ClusterSize int64 // bytes
	Dirty       bool  // not cleanly shut down, or in use
	Snapshots   []Snapshot
	Specific    *Specific
}

// A Snapshot is one inside an image, in qemu-img's JSON.
type Snapshot struct {
	Icount    *int64 `json:"icount,omitempty"`
	ClockNsec int64  `json:"vm-clock-nsec"`
	Name      string `json:"name"`
	DateSec   int64  `json:"date-sec"`
	DateNsec  int64  `json:"date-nsec"`
	ClockSec  int64  `json:"vm-clock-sec"`
	ID        string `json:"id"`
	StateSize int64  `json:"vm-state-size"` // bytes
}

// Specific is what images of one format have, in qemu-img's JSON.
type Specific struct {
	Type string `json:"type"`
	Data Data   `json:"data"`
}

// Data is JSON, and the same in lines for people.
type Data interface{ Fields() []Field }

// A Field is one line of format specific information.
type Field struct {
	Depth int
	Name  string
	Value any // nil for a heading
}
