package formats

import "testing"

func TestSizesAreReadAsByQemuImg(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "512": 512, "1k": 1 << 10, "1K": 1 << 10, "3M": 3 << 20, "1.5G": 3 << 29, "2T": 2 << 40, "7E": 7 << 60, "5b": 5,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "1.5", "-1", "8E", "1e3", "0x10", "1kk", "9999999999999999999", "1 M", "1.2.3k"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}
