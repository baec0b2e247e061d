package nfs_test

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/virt-rotate/virt-rotate/integration/nfs"
)

// counts are calls of NFS by their names.
type counts map[string]int

var operation = regexp.MustCompile(`(?m)^\s+([A-Z_0-9]+): (\d+) `)

// asked reads from /proc/self/mountstats what a host has asked the filer of the share.
func (s *share) calls() counts {
	s.Helper()
	text, err := s.hosts[0].Run("cat", "/proc/self/mountstats")
	must(s, err)
	_, text, _ = strings.Cut(text, "mounted on "+nfs.Share+" ")
	text, _, _ = strings.Cut(text, "\ndevice ")
	found := counts{}
	for _, m := range operation.FindAllStringSubmatch(text, -1) {
		found[m[1]], _ = strconv.Atoi(m[2])
	}
	if len(found) == 0 {
		s.Fatal("/proc/self/mountstats tells nothing of ", nfs.Share)
	}
	return found
}

func (c counts) since(before counts) (all int, text string) {
	var parts []string
	for name, n := range c {
		if n -= before[name]; n > 0 {
			all += n
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	sort.Strings(parts)
	return all, strings.Join(parts, ", ")
}

// traffic: a look at a chain asks the filer so many times a layer, and not that of bytes.
func (s *share) traffic() {
	const layers, others = 10, 100
	paths := s.chain(layers, others)
	top := paths[layers-1]
	for _, look := range []struct {
		args    []string
		getattr int // at most
	}{
		{[]string{"info", "--backing-chain", top}, 1000},
		{[]string{"map", top}, 1000},
		{[]string{"check", top}, 1000},
		{[]string{"commit", "--dry-run", top}, 1000},
	} {
		must(s, second(s.hosts[0].Run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")))
		for _, cache := range []string{"cold", "warm"} {
			before := s.calls()
			o := try(s, s.hosts[0], append([]string{"virt-rotate", "image"}, look.args...)...)
			after := s.calls()
			if o.Code != 0 && s.local == "" {
				s.Errorf("image %s: exit status %d\n%s", strings.Join(look.args, " "), o.Code, o.Stderr+o.Stdout)
			}
			all, text := after.since(before)
			s.Logf("%s, %s: %d calls: %s", look.args[0], cache, all, text)
			s.Logf("  %s", strings.TrimSpace(o.Stderr))
			if n := after["GETATTR"] - before["GETATTR"]; n > look.getattr {
				s.Errorf("image %s: %d GETATTR, at most %d", look.args[0], n, look.getattr)
			}
		}
	}
	for _, cache := range []string{"cold", "warm"} {
		if cache == "cold" {
			must(s, second(s.hosts[0].Run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")))
		}
		before := s.calls()
		seen := s.look(paths)
		all, text := s.calls().since(before)
		s.Logf("a look of a run, %s: %d calls: %s; %+v", cache, all, text, seen)
	}
}
