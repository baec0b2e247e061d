package host

import (
	"fmt"
	"strings"
	"testing"
)

func TestMarksAreKnownWhateverIsLeftOut(t *testing.T) {
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("vd%d: shareable-disk", i))
	}
	for _, c := range []struct {
		leftOut []string
		want    string // of LeftOut
	}{
		{nil, ""},
		{[]string{"vdb: shareable-disk"}, "vdb: shareable-disk"},
		{[]string{"vdb: shareable-disk", "vdc: network-disk"}, "vdb: shareable-disk, vdc: network-disk"},
		{[]string{"a\nb<c>&\"'\x1b[31m ü,; without): x"}, "a?b?c??????31m ??? without?: x"},
		{[]string{strings.Repeat("ü", 500)}, strings.Repeat("?", 32)},
		{many, strings.Join(many[:16], ", ") + ", and 284 more"},
	} {
		s := Snapshot{Description: Mark("nightly", c.leftOut...)}
		if !s.Ours() || s.LeftOut() != c.want || len(s.Description) > 2000 || strings.ContainsAny(s.Description, "\n<>&\x1b") {
			t.Errorf("%q: left out %q, want %q", s.Description, s.LeftOut(), c.want)
		}
		if frozen := (Snapshot{Description: MarkQuiesced(s.Description)}); s.Quiesced() || !frozen.Quiesced() || !frozen.Ours() || frozen.LeftOut() != c.want || UnmarkQuiesced(frozen.Description) != s.Description {
			t.Errorf("quiesced: %q", frozen.Description)
		}
		// How the versions before this one know their snapshots.
		if !strings.HasPrefix(s.Description, "Taken by virt-rotate (policy nightly") || !strings.HasSuffix(s.Description, ")") {
			t.Errorf("an older version does not know %q", s.Description)
		}
	}
}

// Anybody may write a description.
func TestOnlyWhatMarkWritesIsTold(t *testing.T) {
	for _, text := range []string{
		"", "before the upgrade", "before; without vdb: x)", "Taken by virt-rotate (policy p; without vdb",
		"Taken by virt-rotate (policy p; without \x1b[31m)", "Taken by virt-rotate (policy p; without a\nb)", "Taken by virt-rotate (policy p; without a\u0085b)",
		"Taken by virt-rotate (policy p; without " + strings.Repeat("v", 5000) + ")",
	} {
		if s := (Snapshot{Description: text}); s.LeftOut() != "" {
			t.Errorf("%q: %q", text, s.LeftOut())
		}
	}
}
