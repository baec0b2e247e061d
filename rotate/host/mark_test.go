package host

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// knownToTheFirst is how the first versions know their snapshots: what they do not know they keep.
func knownToTheFirst(description string) bool {
	return strings.HasPrefix(description, "Taken by virt-rotate (policy ") && strings.HasSuffix(description, ")")
}

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
		for _, frozen := range []bool{false, true} {
			s := Snapshot{Description: Mark{Policy: "nightly", Quiesced: frozen, LeftOut: LeftOutParts(c.leftOut)}.String()}
			if !s.Ours() || s.LeftOut() != c.want || s.Quiesced() != frozen || len(s.Description) > 2000 || strings.ContainsAny(s.Description, "\n<>&\x1b") {
				t.Errorf("%q: left out %q, want %q", s.Description, s.LeftOut(), c.want)
			}
			if !knownToTheFirst(s.Description) {
				t.Errorf("an older version does not know %q", s.Description)
			}
		}
	}
}

func TestMarksSayWhatAPersonSaid(t *testing.T) {
	at := time.Date(2026, 12, 28, 10, 0, 0, 0, time.UTC)
	for _, m := range []Mark{
		{Policy: "p", Pinned: true},
		{Policy: "p", Expires: at},
		{Policy: "p", Note: "before the upgrade"},
		{Policy: "p", Note: `(of "web"); pinned; expires 2026-12-28T10:00:00Z; note "x")`},
		{Policy: "p", Note: `"`},
		{Policy: "p", Firmware: "/img/a \"b\"; note \"c\" ü\n.firmware.tar", Note: "n"},
		{Policy: "p", Note: "Überholung 更新 <&>"},
		{Policy: "a.b-c_d", Quiesced: true, LeftOut: []string{"vdb: shareable-disk", "vdc: network-disk"}, Pinned: true, Expires: at, Note: "all of it"},
	} {
		got, ok := ParseMark(m.String())
		if !ok || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v, want %+v", m, got, m)
		}
		if knownToTheFirst(m.String()) {
			t.Errorf("a version that knows nothing of pins and expiry would drop %q", m)
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
	const p = "Taken by virt-rotate (policy p)"
	for _, text := range []string{
		p + " ", p + ")", p + "; kept", p + "; pinned; pinned", p + "; pinnedx", p + "; expires", p + "; expires soon", p + "; expires 2026-12-28",
		p + "; expires 2026-13-28T10:00:00Z", p + "; expires 2026-12-28T10:00:00Z; pinned", p + `; note ""`, p + `; note "`, p + `; note "a`, p + "; note \"a\nb\"",
		p + "; note \"\x1b[2J\"", p + "; note \"\xff\"", p + `; note "` + strings.Repeat("n", 257) + `"`, p + `; note " a"`, "\n" + p,
	} {
		if m, ok := ParseMark(text); ok {
			t.Errorf("%q is taken for a mark: %+v", text, m)
		}
	}
}

func TestNotesThatCannotBeKept(t *testing.T) {
	for note, want := range map[string]string{
		"before the upgrade": "", "a\nb": "one line", "\x1b[31m": "one line", "\xff": "UTF-8", strings.Repeat("ü", 256): "", strings.Repeat("ü", 257): "256", " a": "space", "\u202e": "one line",
	} {
		if got := NoteFault(note); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", note, got, want)
		}
	}
}

func FuzzMark(f *testing.F) {
	f.Add(Mark{Policy: "p", Quiesced: true, Pinned: true, Note: "n"}.String())
	f.Add("Taken by virt-rotate (policy p; without vdb: x); expires 2026-12-28T10:00:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		m, ok := ParseMark(text)
		if !ok {
			return
		}
		if again, ok := ParseMark(m.String()); !ok || !reflect.DeepEqual(again, m) {
			t.Fatalf("%q: %+v, then %+v", text, m, again)
		}
	})
}
