package policy

import (
	"math"
	"testing"
	"time"
)

// TestScalarsAreReadAndWritten: text → value → text, and what must fail.
func TestScalarsAreReadAndWritten(t *testing.T) {
	tests := []struct {
		name string
		dest func() scalar
		good map[string]string // input → spelling when written
		bad  []string
	}{
		{"every", func() scalar { return new(interval) }, map[string]string{
			"1s": "1s", "90s": "1m30s", "90m": "1h30m", "60m": "1h", "24h": "24h", "1d": "24h", "1w": "168h",
			"1d12h": "36h", "24h0m0s": "24h", "2w1d1s": "360h1s", "007h": "7h",
		}, []string{"", "0s", "0", "1", "h", "-1h", "+1h", "1.5h", "1 h", "1h ", "1H", "1ms", "1y", "1h1", "15250w2w", "9223372036854775808s"}},
		{"bandwidth", func() scalar { return new(Bandwidth) }, map[string]string{
			"200MiB/s": "200MiB/s", "1024KiB/s": "1MiB/s", "1GiB/s": "1GiB/s", "3B/s": "3B/s", "1536KiB/s": "1536KiB/s",
			"10 MiB/s": "10MiB/s", "2TiB/s": "2TiB/s", "0": "unlimited", "": "unlimited", "unlimited": "unlimited", "0MiB/s": "unlimited",
		}, []string{"200", "200MiB", "200MB/s", "200M/s", "-1MiB/s", "+1B/s", "1.5MiB/s", "MiB/s", "/s", "8388608TiB/s", "Unlimited"}},
		{"min_free", func() scalar { return new(MinFree) }, map[string]string{
			"10%": "10%", "0%": "0%", "99%": "99%", "20GiB": "20GiB", "2048MiB": "2GiB", "1TiB": "1TiB", "1B": "1B", "0B": "0%", "8388607TiB": "8388607TiB",
		}, []string{"", "10", "100%", "-1%", "1.5%", "%", "10 %", "20GB", "20G", "GiB", "-1B", "8388608TiB"}},
		{"window", func() scalar { return new(Window) }, map[string]string{
			"": "", "01:00-05:00": "01:00-05:00", "22:00-04:00": "22:00-04:00", "00:00-24:00": "00:00-24:00", "22:00-00:00": "22:00-00:00",
		}, []string{"01:00", "1:00-2:00", "01:00-05:60", "25:00-01:00", "24:00-01:00", "00:00-24:01", "05:00-05:00", "00:00-00:00",
			"01:00 - 05:00", "01:00-05:00-06:00", "+1:00-02:00", "01.00-05.00", "-", "aa:bb-cc:dd"}},
		{"count", func() scalar { return new(count) }, map[string]string{"0": "0", "10000": "10000"}, []string{"-1", "10001", "", "1.0"}},
		{"max_chain", func() scalar { return new(chainLength) }, map[string]string{"2": "2", "200": "200"}, []string{"1", "201", "0"}},
		{"method", func() scalar { return new(Method) }, map[string]string{"auto": "auto", "commit": "commit", "pull": "pull", "graft": "graft"},
			[]string{"", "Auto", "merge"}},
		{"quiesce", func() scalar { return new(Quiesce) }, map[string]string{"auto": "auto", "yes": "yes", "no": "no"}, []string{"", "true"}},
		{"on_unsuitable", func() scalar { return new(OnUnsuitable) }, map[string]string{"refuse": "refuse", "skip": "skip"}, []string{"", "no", "Skip"}},
		{"offline", func() scalar { return new(Offline) }, map[string]string{"native": "native", "skip": "skip"}, []string{"", "no"}},
		{"path", func() scalar { return new(absPath) }, map[string]string{"": "", "/": "/", "/a//b/": "/a/b"}, []string{"a", "./a", "~/a"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for in, want := range test.good {
				v := test.dest()
				if err := v.UnmarshalText([]byte(in)); err != nil {
					t.Errorf("%q: %v", in, err)
				}
				if got, err := v.MarshalText(); err != nil || string(got) != want {
					t.Errorf("%q is written %q, %v; want %q", in, got, err, want)
				}
			}
			for _, in := range test.bad {
				if v := test.dest(); v.UnmarshalText([]byte(in)) == nil {
					t.Errorf("%q is accepted", in)
				}
			}
		})
	}
}

func TestMinFreeBytes(t *testing.T) {
	tests := []struct {
		m           MinFree
		total, want int64
	}{
		{MinFree{}, 1000, 0},
		{MinFree{Percent: 10}, 1000, 100},
		{MinFree{Percent: 10}, 1009, 100},
		{MinFree{Percent: 99}, 199, 197},
		{MinFree{Percent: 50}, 0, 0},
		{MinFree{Percent: 99}, math.MaxInt64, math.MaxInt64/100*99 + math.MaxInt64%100*99/100},
		{MinFree{Size: 20 << 30}, 1000, 20 << 30},
	}
	for _, test := range tests {
		if got := test.m.Bytes(test.total); got != test.want {
			t.Errorf("%s of %d = %d, want %d", test.m, test.total, got, test.want)
		}
	}
}

func TestWindowIsOpenByTheWallClock(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	tests := []struct {
		window, when string
		open         bool
	}{
		{"", "2026-11-20T12:00:00+01:00", true},
		{"01:00-05:00", "2026-11-20T00:59:59+01:00", false},
		{"01:00-05:00", "2026-11-20T01:00:00+01:00", true},
		{"01:00-05:00", "2026-11-20T04:59:59+01:00", true},
		{"01:00-05:00", "2026-11-20T05:00:00+01:00", false},
		{"01:00-05:00", "2026-11-20T04:30:00Z", false}, // 05:30 in Berlin
		{"22:00-04:00", "2026-11-20T21:59:00+01:00", false},
		{"22:00-04:00", "2026-11-20T22:00:00+01:00", true},
		{"22:00-04:00", "2026-11-20T00:00:00+01:00", true},
		{"22:00-04:00", "2026-11-20T03:59:00+01:00", true},
		{"22:00-04:00", "2026-11-20T04:00:00+01:00", false},
		{"22:00-00:00", "2026-11-20T23:59:00+01:00", true},
		{"22:00-00:00", "2026-11-20T00:00:00+01:00", false},
		{"00:00-24:00", "2026-11-20T23:59:59+01:00", true},
		{"02:00-03:00", "2026-03-29T01:59:59+01:00", false}, // the hour is skipped:
		{"02:00-03:00", "2026-03-29T03:00:00+02:00", false}, // never open that day
		{"02:00-03:00", "2026-10-25T02:30:00+02:00", true},  // the hour comes twice:
		{"02:00-03:00", "2026-10-25T02:30:00+01:00", true},  // open twice
	}
	for _, test := range tests {
		var w Window
		if err := w.UnmarshalText([]byte(test.window)); err != nil {
			t.Fatal(err)
		}
		if got := w.Open(at(t, test.when).In(berlin)); got != test.open {
			t.Errorf("%q at %s: open = %t", test.window, test.when, got)
		}
	}
}

func TestWindowClosed(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "00:00-24:00": 0, "01:00-05:00": 20 * time.Hour, "22:00-04:00": 18 * time.Hour, "22:00-00:00": 22 * time.Hour,
	} {
		var w Window
		if err := w.UnmarshalText([]byte(text)); err != nil || w.closed() != want {
			t.Errorf("%q: closed %v, want %v, %v", text, w.closed(), want, err)
		}
	}
}
