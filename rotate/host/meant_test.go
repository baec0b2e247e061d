package host

import (
	"slices"
	"testing"
	"time"
)

func TestWhatANameOfASnapshotMeans(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 30, 0, 0, time.UTC) }
	now := at(23, 9).In(berlin)
	d := Domain{Snapshots: []Snapshot{
		{Name: "web-20261121T2330", Time: at(21, 23)}, // in Berlin it is the 22nd
		{Name: "web-20261122T0330", Parent: "web-20261121T2330", Time: at(22, 3)},
		{Name: "web-20261123T0330", Parent: "web-20261122T0330", Time: at(23, 3)},
		{Name: "before-upgrade", Parent: "web-20261121T2330", Time: at(23, 4)},
		{Name: "yesterdays", Parent: "before-upgrade", Time: at(23, 5)},
	}}
	for text, want := range map[string][]string{
		"before-upgrade": {"before-upgrade"},
		"latest":         {"yesterdays"},
		"-1":             {"yesterdays"},
		"-2":             {"before-upgrade"},
		"-5":             {"web-20261121T2330"},
		"-6":             nil,
		"-0":             nil,
		"1":              nil,
		"oldest":         {"web-20261121T2330"},
		"today":          {"yesterdays"},
		"yesterday":      {"web-20261122T0330"},
		"2026-11-22":     {"web-20261122T0330"},
		"2026-11-21":     nil,
		"bef":            {"before-upgrade"},
		"web-20261121":   {"web-20261121T2330"},
		"web-":           {"web-20261121T2330", "web-20261122T0330", "web-20261123T0330"},
		"none":           nil,
		"":               nil,
	} {
		var got []string
		for _, s := range d.Meant(text, now) {
			got = append(got, s.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q means %q, want %q", text, got, want)
		}
	}
}

// Who calls a snapshot latest means that one.
func TestANameComesBeforeWhatItMeans(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	d := Domain{Snapshots: []Snapshot{{Name: "latest", Time: now.Add(-time.Hour)}, {Name: "-1", Parent: "latest", Time: now.Add(-time.Minute)}, {Name: "x", Parent: "-1", Time: now}}}
	for _, name := range []string{"latest", "-1"} {
		if got := d.Meant(name, now); len(got) != 1 || got[0].Name != name {
			t.Errorf("%s means %v", name, got)
		}
	}
	if got := (&Domain{}).Meant("latest", now); got != nil {
		t.Errorf("of none: %v", got)
	}
}
