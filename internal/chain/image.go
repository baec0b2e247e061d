package chain

// An Image is what an image file says of itself, whatever its format.
type Image struct {
	Format        string
	VirtualSize   int64  // bytes that the guest sees
	Backing       string // backing name as the header has it; "" for a base
	BackingFormat string // "" when the header does not name one
	Snapshots     int    // internal snapshots
	Bitmaps       int    // persistent ones that are valid
	Encrypted     bool
	DataFile      bool // guest data is in another file
	Corrupt       bool // marked as corrupt by the program that last wrote it
	Blank         bool // holds no guest data of its own

	// ID is the identity that is in the image itself, and BackingID that of the image
	// it was made on; "" where the format has none. A backing file of another
	// identity is not what the guest is to read.
	ID, BackingID string
}

// An Inspector reads what the image at path says of itself. The format is
// given, never guessed. Its errors name path and reason.
type Inspector func(path, format string) (Image, error)
