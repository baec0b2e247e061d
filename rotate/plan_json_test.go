package rotate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"github.com/virt-rotate/virt-rotate/rotate/hosttest"
)

// The keys are a contract with the scripts of administrators.
func TestTheKeysOfAPlanInJSON(t *testing.T) {
	full := decide.Plan{
		Domain: "web", Policy: "p", State: host.Running, Result: decide.ResultPartly, Error: "e", Waiting: "w",
		Steps:   []decide.Step{{Op: decide.OpMerge, Snapshot: "s", Disk: "vda", Method: "commit", Top: "/top", Base: "/base", Path: "/path", Bytes: 7, Reason: "because"}},
		Refused: []decide.Refusal{{Code: host.CodeNoSpace, Path: "/path", Detail: "full"}},
		Hooks:   []decide.Hook{{When: decide.Failed, Command: []string{"/bin/x", "y"}, Error: "exit status 1"}}, Warnings: []string{"w"},
	}
	const want = `{"name":"web","policy":"p","state":"running",` +
		`"steps":[{"op":"merge","snapshot":"s","disk":"vda","method":"commit","top":"/top","base":"/base","path":"/path","bytes":7,"reason":"because"}],` +
		`"refused":[{"code":"no-space","path":"/path","detail":"full"}],` +
		`"waiting":"w","result":"partly-refused","error":"e",` +
		`"hooks":[{"when":"failed","command":["/bin/x","y"],"error":"exit status 1"}],"warnings":["w"]}`
	if have, err := json.Marshal(full); err != nil || string(have) != want {
		t.Errorf("%s, %v\nwant\n%s", have, err, want)
	}
}

// Each operation has the keys that mean something for it, and no others; lists are never null.
func TestTheKeysOfEachStepInJSON(t *testing.T) {
	h := hosttest.New(t)
	one(10, 11)(h, h.Add("web"))
	data, err := json.Marshal(planOf(h, t, rotator(h, rule(2)), "web"))
	hosttest.Must(err)
	var p struct{ Steps []map[string]any }
	hosttest.Must(json.Unmarshal(data, &p))
	have := map[string]string{}
	for _, s := range p.Steps {
		have[s["op"].(string)] = strings.Join(slices.Sorted(maps.Keys(s)), " ")
	}
	want := map[string]string{
		"snapshot":      "base bytes disk op path reason snapshot",
		"drop-metadata": "bytes op reason snapshot",
		"merge":         "base bytes disk method op reason top",
		"redefine":      "bytes op reason snapshot",
		"delete-file":   "bytes disk op path reason",
	}
	if !maps.Equal(have, want) {
		t.Errorf("%v, want %v", have, want)
	}
	h = hosttest.New(t)
	one(12)(h, h.Add("web"))
	idle := runAll(h, t, rotator(h, rule(2)))["web"]
	idle.Ran.Start, idle.Ran.End, idle.Ran.Allocated = hosttest.Hour(12), hosttest.Hour(13), 4096
	data, err = json.Marshal(idle)
	hosttest.Must(err)
	if string(data) != `{"name":"web","policy":"p","state":"running","steps":[],"refused":[],"result":"nothing-to-do",`+
		`"ran":{"start":"2026-01-01T12:00:00Z","end":"2026-01-01T13:00:00Z","uuid":"uuid-of-web","merged":0,"freed":0,"allocated":4096,"layers":2}}` {
		t.Errorf("%s", data)
	}
}
