package rotate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/virt-rotate/virt-rotate/policy"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
	"github.com/virt-rotate/virt-rotate/rotate/observe"
)

// A recorded world is a host as it was seen once, with what was decided on its domain
// "web": decisions need nothing else. Those in testdata/worlds were made from the
// simulated host by VIRT_ROTATE_RECORD=1 go test -run Shapes ./rotate.
type recorded struct {
	World   *observe.World   `json:"world"`
	Rule    string           `json:"rule"` // TOML
	Options decide.Options   `json:"options"`
	Now     time.Time        `json:"now"`
	Steps   []decide.Step    `json:"steps"`
	Refused []decide.Refusal `json:"refused"`
}

const recordedHome = "/host" // in place of the test's directory

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// record sees that a world that is saved is decided on as the one that was seen, and
// keeps it as test data if that is wanted.
func record(h *hosttest.Host, t *testing.T, name string, rule *policy.Rule, o decide.Options) {
	t.Helper()
	w := see(h, t)
	now := h.Clock()
	p := decide.Decide(w, w.Domain("web"), rule, now, o)
	data, err := json.MarshalIndent(recorded{w, inTOML(rule), o, now, p.Steps, p.Refused}, "", " ")
	hosttest.Must(err)
	text := []byte(strings.ReplaceAll(string(data), h.Dir, recordedHome))
	decideRecorded(t, text)
	if name == "" || os.Getenv("VIRT_ROTATE_RECORD") == "" {
		return
	}
	file := filepath.Join("testdata", "worlds", strings.Trim(notInNames.ReplaceAllString(strings.ToLower(name), "-"), "-")+".json")
	hosttest.Must(os.MkdirAll(filepath.Dir(file), 0o755))
	hosttest.Must(os.WriteFile(file, append(text, '\n'), 0o644))
}

// inTOML is a policy file with the rule.
func inTOML(rule *policy.Rule) string {
	r := *rule
	r.Domains, r.Hooks.Timeout = []string{"web"}, time.Minute
	return r.TOML()
}

// decideRecorded decides on a world that was saved.
func decideRecorded(t *testing.T, text []byte) {
	t.Helper()
	var r recorded
	hosttest.Must(json.Unmarshal(text, &r))
	f, err := policy.Parse("recorded", []byte(r.Rule))
	hosttest.Must(err)
	p := decide.Decide(r.World, r.World.Domain("web"), &f.Rules[0], r.Now, r.Options)
	have, err := json.MarshalIndent([]any{p.Steps, p.Refused}, "", " ")
	hosttest.Must(err)
	want, err := json.MarshalIndent([]any{r.Steps, r.Refused}, "", " ")
	hosttest.Must(err)
	if string(have) != string(want) {
		t.Errorf("decided again:\n%s\nrecorded:\n%s", have, want)
	}
}

func TestRecordedWorldsAreDecidedAsTheyWere(t *testing.T) {
	files, err := filepath.Glob("testdata/worlds/*.json")
	hosttest.Must(err)
	if len(files) < 20 {
		t.Fatalf("%d recorded worlds only", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			hosttest.Must(err)
			decideRecorded(t, text)
		})
	}
}
