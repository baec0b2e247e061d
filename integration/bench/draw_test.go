package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The pictures are one SVG file that XML readers understand, with titles, units and names in it.
func TestPanelsAreDrawnIntoOneSVG(t *testing.T) {
	var panels []*panel
	for _, title := range []string{"one", "two", "three"} {
		a, b := &series{name: "ours of " + title}, &series{name: "theirs"}
		for i := range 4 {
			a.add(i*100, time.Duration(i)*time.Second)
			b.add(i*100, time.Duration(i*i)*time.Second)
		}
		panels = append(panels, &panel{title, "MiB", []*series{a, b}})
	}
	path := filepath.Join(t.TempDir(), "growth.svg")
	if err := drawPanels(panels, path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{">one<", ">two<", ">three<", ">MiB<", ">seconds<", ">ours of one<", ">theirs<"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s", want)
		}
	}
	d := xml.NewDecoder(strings.NewReader(string(text)))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
