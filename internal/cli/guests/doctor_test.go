package guests

import (
	"strings"
	"syscall"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// What an ordinary user cannot read is no alarm about each image: it is said once.
func TestDoctorTellsAUserOnceThatHeCannotReadTheImages(t *testing.T) {
	denied := "open /images/web.qcow2: " + syscall.EACCES.Error()
	found := []decide.Finding{
		{Code: "unreadable", Domain: "web", Detail: denied},
		{Code: decide.FindOrphan, Path: "/images/x"},
		{Code: decide.FindStrange, Path: "/images/web.qcow2", Detail: denied},
	}
	if got := asUserOf(0, found); len(got) != 3 {
		t.Errorf("root: %+v", got)
	}
	got := asUserOf(1000, found)
	if len(got) != 2 || got[0].Code != decide.FindRoot || !strings.Contains(got[0].Detail, "2 images") || !strings.Contains(got[0].Remedy, "root") || got[1].Code != decide.FindOrphan {
		t.Errorf("a user: %+v", got)
	}
	if got := asUserOf(1000, found[1:2]); len(got) != 1 {
		t.Errorf("a user who may read all: %+v", got)
	}
}
