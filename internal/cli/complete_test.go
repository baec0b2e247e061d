package cli

import (
	"strings"
	"testing"
)

// completed returns the candidates for a command line, the last word of which is being typed.
func completed(t *testing.T, words ...string) []string {
	t.Helper()
	out, errs, code := call(t, append(words, completeFlag)...)
	if code != 0 || errs != "" {
		t.Errorf("%q: exit %d, stderr %q", words, code, errs)
	}
	var names []string
	for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
		name, _, _ := strings.Cut(line, "\t")
		names = append(names, name)
	}
	return names
}

// Real shells and a real libvirt are in integration/packages; here is what they do not type.
func TestCompletionGoesByWhatTheHelpSays(t *testing.T) {
	good := policyFile(t, goodPolicy)
	at := func(words ...string) []string { return append(append([]string{}, good...), words...) }
	for _, c := range []struct {
		words []string
		want  string
	}{
		{at("pl"), "plan"},
		{at("policy", ""), "check show init"},
		{at("policy", "frob", ""), ""},
		{at("plan", ""), "test"},
		{at("plan", "test", ""), ""}, // once is enough
		{at("plan", "--output", ""), "human json"},
		{at("plan", "--output=h"), "human"},
		{at("--output", "j"), ""}, // no flag of the program's
		{at("plan", "--now", "t"), "test"},
		{at("restore", "test", "s", ""), ""},
		{at("ls", ""), "test@latest"},
		{at("diff", "test@latest", "test@o"), "test@oldest"},
		{at("mount", "test@latest:/e"), ""},
		{at("cp", "test@latest:/etc", ""), "/"},
		{at("tree", ""), "test /"},
		{at("tree", "--who", ""), "/"},
		{at("plan", "--", "--n"), ""},
		{at("run", "--no-"), "--no-snapshot"},
		{at("export", "test", "s", "-o", ""), "/"},
		{at("sr", "convert", "--policy-name", ""), "p"},
		{append([]string{"plan"}, append(good, "t")...), "test"}, // global flags behind the command
		{[]string{"--policy", ""}, "/"},
		{[]string{"--connect", "qemu+ssh://elsewhere/system", "plan", ""}, ""},
		{[]string{"--connect", "no such thing", "plan", ""}, ""},
	} {
		if got := strings.Join(completed(t, c.words...), " "); got != c.want {
			t.Errorf("%q: %q, want %q", c.words, got, c.want)
		}
	}
}

func TestHiddenCommandsAndFlagsAreNotOffered(t *testing.T) {
	for _, name := range completed(t, "") {
		if name == "help" || name == "" {
			t.Errorf("%q is offered", name)
		}
	}
	for _, name := range completed(t, "image", "info", "--") {
		if name == "--image-opts" || name == "--object" {
			t.Errorf("%s is offered", name)
		}
	}
}
