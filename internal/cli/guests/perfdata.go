package guests

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate"
)

// Performance data as the Monitoring Plugins Development Guidelines have it:
//
//	'label'=value[UOM];[warn];[crit];[min];[max]
//
// with s for seconds and B for bytes, and no unit for numbers.

// perf is one value; warn, crit and limit are left out where they are "".
func perf(label, value, unit, warn, crit, limit string) string {
	text := fmt.Sprintf("%s=%s%s;%s;%s;0;%s", perfLabel(label), value, unit, warn, crit, limit)
	return strings.TrimRight(text, ";")
}

// perfLabel quotes a label. What must not be in one, and what not every reader of quoted
// labels gets right, is an underscore: names of domains are anybody's.
func perfLabel(label string) string {
	label = strings.Map(func(r rune) rune {
		if strings.ContainsRune(`='"|;\`, r) || r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, oneLine(label))
	if strings.Trim(label, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") == "" {
		return label
	}
	return "'" + label + "'"
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d.Seconds()), 10) }

// hostData are the figures of the host.
func (r *checkReport) hostData() []string {
	data := []string{perf("guests", strconv.Itoa(len(r.Guests)), "", "", "", "")}
	for _, l := range []rotate.Level{rotate.OK, rotate.Warning, rotate.Critical, rotate.Unknown} {
		data = append(data, perf(strings.ToLower(l.String()), strconv.Itoa(r.at(l)), "", "", "", ""))
	}
	return append(data, perf("uncovered", strconv.Itoa(len(r.Uncovered)), "", "", "", ""))
}

// data are the figures of a guest.
func (c *checked) data() []string {
	var data []string
	if c.Newest != nil {
		warn, crit := "", ""
		if c.MaxAge != nil {
			warn, crit = seconds(c.Verdict.MaxAge), seconds(c.Verdict.CritAge)
		}
		data = append(data, perf(c.Domain+"_age", strconv.FormatInt(int64(*c.Age), 10), "s", warn, crit, ""))
	}
	if c.MaxChain > 0 {
		data = append(data, perf(c.Domain+"_layers", strconv.Itoa(c.Layers), "", "", "", strconv.Itoa(c.MaxChain)),
			perf(c.Domain+"_allocated", strconv.FormatInt(c.Allocated, 10), "B", "", "", ""))
	}
	if c.Free >= 0 {
		data = append(data, perf(c.Domain+"_free", strconv.FormatInt(c.Free, 10), "B", strconv.FormatInt(c.MinFree, 10)+":", "", ""))
	}
	return data
}
