package policy

import (
	"fmt"

	"github.com/BurntSushi/toml"
	"github.com/xrash/smetrics"
)

// hint says what an unknown key may have been meant to be, or "".
func hint(at toml.Key, name string, fields []field) string {
	if len(at) == 1 && at[0] == "defaults" && (name == "domains" || name == "exclude") {
		return " in [defaults]: each policy names its own domains"
	}
	if meant := nearest(name, fields); meant != "" {
		return fmt.Sprintf("; did you mean %s?", meant)
	}
	return ""
}

// nearest is the key that differs least from name, if the two are close: at
// most two edits, and at most half of the letters. A key that is right but
// stands one table too high counts as well.
func nearest(name string, fields []field) string {
	best, limit := "", min(3, len(name)/2+1)
	for _, f := range fields {
		if d := smetrics.WagnerFischer(name, f.key, 1, 1, 1); d < limit {
			best, limit = f.key, d
		}
		for _, s := range f.sub {
			if s.key == name {
				return f.key + "." + name
			}
		}
	}
	return best
}
