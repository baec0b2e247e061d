package qcow2

import (
	"bytes"
	"testing"
)

func TestSnapshotsAndBitmapsOfTheSamplesAreListed(t *testing.T) {
	snapshots, bitmaps := 0, 0
	for _, image := range samples(t) {
		r := bytes.NewReader(image)
		h, err := ReadHeader(r, r.Size())
		if err != nil {
			continue
		}
		s, err := ReadSnapshots(r, h, r.Size())
		if err != nil {
			t.Error(err)
		}
		b, err := ReadBitmaps(r, h)
		if err != nil {
			t.Error(err)
		}
		snapshots, bitmaps = snapshots+len(s), bitmaps+len(b)
	}
	if snapshots == 0 || bitmaps == 0 {
		t.Errorf("%d snapshots, %d bitmaps", snapshots, bitmaps)
	}
}

// FuzzDescribe: what is listed is as much as the header says and is in the file,
// and every error is of a known kind.
func FuzzDescribe(f *testing.F) {
	for _, image := range samples(f) {
		f.Add(image)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		r := bytes.NewReader(image)
		h, err := ReadHeader(r, r.Size())
		if err != nil {
			return
		}
		names := 0
		snapshots, err := ReadSnapshots(r, h, r.Size())
		if err != nil {
			wantKnownError(t, err)
		} else if len(snapshots) != int(h.Snapshots) {
			t.Fatalf("%d snapshots of %d", len(snapshots), h.Snapshots)
		}
		for _, s := range snapshots {
			names += len(s.ID) + len(s.Name)
		}
		bitmaps, err := ReadBitmaps(r, h)
		if err != nil {
			wantKnownError(t, err)
		} else if len(bitmaps) != int(h.Bitmaps) {
			t.Fatalf("%d bitmaps of %d", len(bitmaps), h.Bitmaps)
		}
		for _, b := range bitmaps {
			names += len(b.Name)
		}
		if names > 2*len(image) {
			t.Fatalf("%d bytes of names in %d", names, len(image))
		}
		if h.CryptMethod == CryptLUKS {
			if _, err := ReadLUKS(r, h); err != nil {
				wantKnownError(t, err)
			}
		}
	})
}
