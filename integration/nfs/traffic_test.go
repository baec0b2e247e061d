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

// calls reads from /proc/self/mountstats what a host has asked the filer of the share.
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

// Attributes are what a storage of many hosts is asked for most. What a layer costs does not grow with its size, or
// with how long its chain is: it is found, opened, and looked at again before and after it is read (10 at most); an
// image beside it is found and, if its header is not known yet, opened, for which NFSv3 asks as well (3 at most).
const (
	layersRead   = 10
	imagesBeside = 100
	perLayer     = 10
	perImage     = 3
)

// traffic: a look at a chain asks the filer so many times for each layer, and for each image beside it.
func (s *share) traffic() {
	paths := s.chain(layersRead, imagesBeside)
	top := paths[layersRead-1]
	const chain, directory = layersRead * perLayer, layersRead*perLayer + imagesBeside*perImage
	for _, look := range []struct {
		args []string
		most int // GETATTR
	}{
		{[]string{"info", "--backing-chain", top}, chain},
		{[]string{"map", top}, chain},
		{[]string{"check", top}, perLayer},
		{[]string{"commit", "--dry-run", top}, directory},
	} {
		s.twice("image "+look.args[0], look.most, func() {
			o := try(s, s.hosts[0], append([]string{"virt-rotate", "image"}, look.args...)...)
			if o.Code != 0 && s.local == "" {
				s.Errorf("image %s: exit status %d\n%s", strings.Join(look.args, " "), o.Code, o.Stderr+o.Stdout)
			}
		})
	}
	s.twice("a look of a run", directory, func() {
		if seen := s.look(paths); len(seen.Unread) > 0 || seen.Images != layersRead {
			s.Errorf("%+v", seen)
		}
	})
}

// twice counts what is asked when nothing is known, and once all is.
func (s *share) twice(what string, most int, do func()) {
	s.Helper()
	must(s, second(s.hosts[0].Run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")))
	for _, cache := range []string{"cold", "warm"} {
		before := s.calls()
		do()
		after := s.calls()
		all, text := after.since(before)
		s.Logf("%s, %s: %d calls: %s", what, cache, all, text)
		if n := after["GETATTR"] - before["GETATTR"]; n > most {
			s.Errorf("%s: %d GETATTR, at most %d", what, n, most)
		}
	}
}
