package policy

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// field is one key of a table: how it is read and how it is written. A table
// below has sub instead.
type field struct {
	key   string
	set   func(v any) error // v as the TOML decoder left it
	print func() string     // in TOML
	sub   []field
	omit  func() bool // nil = never: the key is not written, since no value means its absence
}

// fields are the keys of [policy.NAME], in the order of the documentation.
func fields(r *Rule) []field {
	return append([]field{
		list("domains", &r.Domains, globList),
		list("exclude", &r.Exclude, globList),
	}, inheritable(r)...)
}

// inheritable are the keys of [defaults]: all of a policy but the domains,
// which every policy must name itself.
func inheritable(r *Rule) []field {
	return []field{
		list("disks", &r.Disks, globList),
		list("exclude_disks", &r.ExcludeDisks, globList),
		text("on_unsuitable", &r.OnUnsuitable, "refuse"),
		text("every", (*interval)(&r.Every), "1h"),
		{key: "keep", sub: keepFields(&r.Keep)},
		text("method", &r.Method, "auto"),
		text("quiesce", &r.Quiesce, "auto"),
		text("overlay_dir", (*absPath)(&r.OverlayDir), "/var/lib/overlays"),
		number("max_chain", (*chainLength)(&r.MaxChain)),
		text("min_free", &r.MinFree, "10%"),
		numberOrText("bandwidth", &r.Bandwidth, "200MiB/s"),
		text("window", &r.Window, "01:00-05:00"),
		text("offline", &r.Offline, "native"),
		yesNo("detach", &r.Detach),
		{key: "hooks", sub: hookFields(&r.Hooks)},
		{key: "check", sub: checkFields(&r.Check)},
	}
}

func storageFields(s *Storage) []field {
	return []field{
		list("scan", &s.Scan, pathList),
		list("ignore", &s.Ignore, fileList),
		list("shared", &s.Shared, fileList),
		text("silent_after", (*interval)(&s.SilentAfter), "1w"),
		number("slots", (*slotCount)(&s.Slots)),
	}
}

func keepFields(k *Keep) []field {
	return []field{
		number("last", (*count)(&k.Last)),
		number("hourly", (*count)(&k.Hourly)),
		number("daily", (*count)(&k.Daily)),
		number("weekly", (*count)(&k.Weekly)),
		number("monthly", (*count)(&k.Monthly)),
		number("yearly", (*count)(&k.Yearly)),
	}
}

// builtin is what a rule starts from, before [defaults].
func builtin() Rule {
	return Rule{
		OnUnsuitable: UnsuitableRefuse,
		Every:        24 * time.Hour,
		Method:       MethodAuto,
		Quiesce:      QuiesceAuto,
		MaxChain:     30,
		MinFree:      MinFree{Percent: 10},
		Offline:      OfflineNative,
		Hooks:        Hooks{Timeout: 5 * time.Minute},
		Check:        Check{Warn: 2, Crit: 4, Timer: time.Hour, Waiting: 48 * time.Hour},
	}
}

// topLevel are the keys outside of [policy.NAME]. The policies themselves
// are read afterwards, when base has all defaults.
func topLevel(f *File, base *Rule) []field {
	return []field{
		text("connect", (*word)(&f.Connect), "qemu:///system"),
		text("state_dir", (*absPath)(&f.StateDir), "/var/lib/virt-rotate"),
		text("metrics_file", (*filePath)(&f.MetricsFile), "/var/lib/prometheus/node-exporter/virt-rotate.prom"),
		{key: "storage", sub: storageFields(&f.Storage)},
		{key: "coordination", sub: coordinationFields(&f.Coordination)},
		{key: "metadata", sub: metadataFields(&f.Metadata)},
		{key: "ping", sub: pingFields(&f.Ping)},
		{key: "check", sub: hostCheckFields(&f.Check)},
		{key: "defaults", sub: inheritable(base)},
		{key: "policy", set: func(any) error { return nil }},
	}
}

// scalar is a value that is one word in TOML.
type scalar interface {
	encoding.TextUnmarshaler
	encoding.TextMarshaler
}

// text is a key whose value is a TOML string.
func text(key string, dest scalar, example string) field {
	return field{key: key, print: printText(dest), set: func(v any) error {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a string such as %q, not %s", example, describe(v))
		}
		return dest.UnmarshalText([]byte(s))
	}}
}

// number is a key whose value is a TOML integer.
func number(key string, dest scalar) field {
	return field{key: key, print: printPlain(dest), set: func(v any) error {
		n, ok := v.(int64)
		if !ok {
			return fmt.Errorf("want a whole number, not %s", describe(v))
		}
		return dest.UnmarshalText(strconv.AppendInt(nil, n, 10))
	}}
}

// yesNo is a key whose value is a TOML boolean.
func yesNo(key string, dest *bool) field {
	return field{key: key, print: func() string { return strconv.FormatBool(*dest) }, set: func(v any) error {
		b, ok := v.(bool)
		if !ok {
			return fmt.Errorf("want true or false, not %s", describe(v))
		}
		*dest = b
		return nil
	}}
}

// numberOrText is text that may also be an integer, so that UnmarshalText
// can accept 0 and tell what unit is missing from others.
func numberOrText(key string, dest scalar, example string) field {
	f := text(key, dest, example)
	setText := f.set
	f.set = func(v any) error {
		if n, ok := v.(int64); ok {
			v = strconv.FormatInt(n, 10)
		}
		return setText(v)
	}
	return f
}

// list is a key whose value is an array of strings. read checks them; what it
// returns is stored, an empty list as nil.
func list(key string, dest *[]string, read func([]string) ([]string, error)) field {
	return field{key: key, print: func() string { return printList(*dest) }, set: func(v any) error {
		items, err := stringsOf(v)
		if err == nil {
			*dest, err = read(items)
		}
		return err
	}}
}

func stringsOf(v any) ([]string, error) {
	array, ok := v.([]any)
	if !ok {
		if tables, isTables := v.([]map[string]any); !isTables || len(tables) > 0 {
			return nil, fmt.Errorf("want an array of strings, not %s", describe(v))
		}
	}
	var items []string
	for _, item := range array {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("want an array of strings, not of %s", describe(item))
		}
		items = append(items, s)
	}
	return items, nil
}

func globList(items []string) ([]string, error) {
	var errs []error
	for _, glob := range items {
		if _, err := match(glob, ""); err != nil || glob == "" {
			errs = append(errs, fmt.Errorf("%q: not a glob; * ? [a-z] [!a-z] are special, \\ takes that away", glob))
		}
	}
	return items, errors.Join(errs...)
}

func pathList(items []string) ([]string, error) {
	paths := slices.Clone(items)
	var errs []error
	for i, item := range items {
		if item == "" {
			errs = append(errs, errors.New("an empty path"))
		} else if err := (*absPath)(&paths[i]).UnmarshalText([]byte(item)); err != nil {
			errs = append(errs, err)
		}
	}
	return paths, errors.Join(errs...)
}

// fileList is pathList without globs: each file is named, by somebody who knows it.
func fileList(items []string) ([]string, error) {
	paths, err := pathList(items)
	errs := []error{err}
	for _, item := range items {
		if strings.ContainsAny(item, "*?[") {
			errs = append(errs, fmt.Errorf("%q: globs are not taken here: name each file", item))
		}
	}
	return paths, errors.Join(errs...)
}

// describe names the TOML type of a value that has the wrong one.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + quote(v)
	case int64:
		return fmt.Sprintf("the integer %d", v)
	case bool:
		return fmt.Sprintf("the boolean %t", v)
	case float64:
		return fmt.Sprintf("the float %v", v)
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "an array"
	}
	return "a date or time"
}

func printPlain(v scalar) func() string {
	return func() string {
		text, _ := v.MarshalText() // ours never fail
		return string(text)
	}
}

func printText(v scalar) func() string {
	plain := printPlain(v)
	return func() string { return quote(plain()) }
}

func printList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote writes a TOML basic string. Go's own quoting has escapes, such as
// \x00, that TOML has not.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
