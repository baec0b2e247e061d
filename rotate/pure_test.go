package rotate

import (
	"os"
	"slices"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// A decision rests on the world alone: what becomes of the files afterwards is no matter
// to it. A symbolic link by which the metadata names a layer has gone, all images have.
func TestADecisionRestsOnTheWorldAlone(t *testing.T) {
	h := hosttest.New(t)
	web := h.Add("web")
	one(9, 10, 11)(h, web)
	link := h.Img("by-another-name.qcow2")
	hosttest.Must(os.Symlink(h.Img("web.qcow2"), link))
	web.Snapshots[0].Disks[0].State = []string{link}
	w := see(h, t)
	decide := func() decide.Plan {
		return decide.Decide(w, w.Domain("web"), rule(1), hosttest.Hour(12), decide.Options{})
	}
	first := decide()
	if len(first.Steps) == 0 || len(first.Refused) > 0 {
		t.Fatalf("%+v", first)
	}
	hosttest.Must(os.Remove(link))
	if again := decide(); !slices.Equal(again.Steps, first.Steps) || !slices.Equal(again.Refused, first.Refused) {
		t.Errorf("without the link:\n%v %+v\nbefore:\n%v", lines(h, t, again.Steps), again.Refused, lines(h, t, first.Steps))
	}
	hosttest.Must(os.RemoveAll(h.Dir))
	if again := decide(); !slices.Equal(again.Steps, first.Steps) || !slices.Equal(again.Refused, first.Refused) {
		t.Errorf("without any file:\n%v %+v\nbefore:\n%v", lines(h, t, again.Steps), again.Refused, lines(h, t, first.Steps))
	}
	hosttest.Must(os.Mkdir(h.Dir, 0o700))
}
