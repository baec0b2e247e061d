package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// Hooks are programs that a run starts around its work on a domain: each a list
// of the program and its arguments, which no shell reads. Empty = none.
type Hooks struct {
	Before  []string      `json:"before"`  // the first step of a domain that has something to do
	After   []string      `json:"after"`   // work that succeeded
	Failed  []string      `json:"failed"`  // a failure or a refusal
	Timeout time.Duration `json:"timeout"` // of each
}

// Any reports whether there is a hook at all.
func (h *Hooks) Any() bool { return len(h.Before)+len(h.After)+len(h.Failed) > 0 }

// MarshalJSON spells the timeout as the policy file does. Empty lists are [].
func (h Hooks) MarshalJSON() ([]byte, error) {
	type plain Hooks // has no MarshalJSON
	for _, list := range []*[]string{&h.Before, &h.After, &h.Failed} {
		if *list == nil {
			*list = []string{}
		}
	}
	return json.Marshal(struct {
		plain
		Timeout interval `json:"timeout"` // hides the one of plain
	}{plain(h), interval(h.Timeout)})
}

func hookFields(h *Hooks) []field {
	return []field{
		program("before", &h.Before),
		program("after", &h.After),
		program("failed", &h.Failed),
		text("timeout", (*interval)(&h.Timeout), "5m"),
	}
}

// program is a key whose value is a program and its arguments. An empty list
// takes an inherited one back; where there is none it is a mistake.
func program(key string, dest *[]string) field {
	f := list(key, dest, func(items []string) ([]string, error) {
		if len(items) == 0 && len(*dest) == 0 {
			return nil, errors.New(`an empty list: want a program and its arguments, such as ["/usr/local/sbin/notify", "web"], or no such key`)
		}
		return items, checkProgram(items)
	})
	f.omit = func() bool { return len(*dest) == 0 }
	return f
}

// checkProgram wants an absolute path: cron's PATH is not the one of a login.
func checkProgram(items []string) error {
	var errs []error
	if len(items) > 0 && !path.IsAbs(items[0]) {
		errs = append(errs, fmt.Errorf("%s: want the absolute path of a program", quote(items[0])))
	}
	for _, item := range items {
		if strings.ContainsRune(item, 0) {
			errs = append(errs, fmt.Errorf("%s: no argument can have a zero byte", quote(item)))
		}
	}
	return errors.Join(errs...)
}

// HasHooks reports whether a rule of the file has a hook: whoever can write the file can
// then start programs.
func (f *File) HasHooks() bool {
	for i := range f.Rules {
		if f.Rules[i].Hooks.Any() {
			return true
		}
	}
	return false
}
