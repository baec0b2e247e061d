package guests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

func TestAScreenIsNotLeft(t *testing.T) {
	var lines []string
	for i := range 30 {
		lines = append(lines, fmt.Sprintf("line %d, which is rather long", i))
	}
	got := screen(lines, 20, 24)
	if rows := strings.Split(got, "\r\n"); len(rows) != 24 || !strings.HasPrefix(rows[23], emptyLine+"… and 7 lines more") {
		t.Errorf("%q", got)
	}
	if !strings.Contains(got, "line 0, which is ra…") || strings.HasSuffix(got, "\n") {
		t.Errorf("%q", got)
	}
	if got := screen(lines[:2], 80, 24); strings.Contains(got, "more") || strings.Count(got, "\n") != 2 {
		t.Errorf("%q", got)
	}
}

func TestBarsOfBlockJobs(t *testing.T) {
	s := &survey{world: &observe.World{Domains: []host.Domain{{Name: "web", Disks: []host.Disk{{Target: "vda", Job: &host.Job{Type: "commit", Done: 1 << 30, Size: 4 << 30}}, {Target: "vdb"}, {Target: "vdc", Job: &host.Job{Type: "pull"}}}}}}}
	want := []string{"  vda commit [##########..............................]  25% of 4.0 GiB", "  vdc pull [..............................................]   0% of 0 B"}
	if got := s.jobLines("web", 71); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}
	for _, line := range s.jobLines("web", 10) {
		if !strings.Contains(line, "[....]") && !strings.Contains(line, "[#...]") {
			t.Errorf("%q", line)
		}
	}
}
