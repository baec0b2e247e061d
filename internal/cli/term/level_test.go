package term

import (
	"bytes"
	"fmt"
	"testing"
)

func TestLinesForTheJournalCarryTheirLevel(t *testing.T) {
	var b bytes.Buffer
	w := toJournal(&b, func() (bool, error) { return true, nil })
	fmt.Fprint(w, "one\ntw")
	fmt.Fprint(w, "o\n")
	Warn(w, "of a\nline")
	fmt.Fprintln(At(w, LevelErr), "lost")
	fmt.Fprintln(w, "three")
	if want := "<6>one\n<6>two\n<4>virt-rotate: warning: of a\n<4>line\n<3>lost\n<6>three\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestLinesForAnybodyElseAreAsTheyAre(t *testing.T) {
	var b bytes.Buffer
	w := toJournal(&b, func() (bool, error) { return false, nil })
	Warn(w, "text")
	fmt.Fprintln(At(w, LevelErr), "lost")
	if want := "virt-rotate: warning: text\nlost\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
