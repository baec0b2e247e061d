package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/manpage"
)

func page(t *testing.T) *manpage.Page {
	t.Helper()
	all, err := manpage.Read("..")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(p *manpage.Page) bool { return p.Name == "virt-rotate.toml.5" })
	if i < 0 {
		t.Fatal("there is no virt-rotate.toml.5")
	}
	return all[i]
}

// A documented key is followed by its default, if it has one.
type documented struct{ key, value string }

// withDefaults lists keys and their defaults, those of tables as table.key.
func withDefaults(prefix string, fields []field) []documented {
	var all []documented
	for _, f := range fields {
		switch {
		case f.key == "defaults":
			all = append(all, documented{f.key, ""})
		case f.key == "policy":
			all = append(all, documented{"policy.NAME", ""})
		case f.sub != nil:
			all = append(all, withDefaults(prefix+f.key+".", f.sub)...)
		default:
			all = append(all, documented{prefix + f.key, f.print()})
		}
	}
	return all
}

// mustBeSet are keys whose empty value means that there is none.
var mustBeSet = []string{"connect", "state_dir", "metrics_file", "domains", "ping.start", "ping.success", "ping.failure", "coordination.ca_file", "coordination.cert_file", "coordination.key_file",
	"coordination.user", "coordination.password_file", "hooks.before", "hooks.after", "hooks.failed"}

func TestThePageHasEveryKeyWithItsDefaultAndNoOther(t *testing.T) {
	f, err := Parse("test", []byte("[policy.p]\ndomains = [\"*\"]\nkeep = { last = 1 }\n"))
	if err != nil {
		t.Fatal(err)
	}
	rule := builtin()
	want := append(withDefaults("", topLevel(f, &rule)), withDefaults("", fields(&rule))...)
	var got []documented
	for _, i := range page(t).Items {
		if i.Macro == "Va" {
			d := documented{key: i.Words[0]}
			if len(i.Words) > 2 && i.Words[1] == "=" {
				d.value = strings.Join(i.Words[2:], " ")
			}
			got = append(got, d)
		}
	}
	for _, d := range want {
		if slices.Contains(mustBeSet, d.key) {
			d.value = ""
		}
		n := len(got)
		if got = slices.DeleteFunc(got, func(g documented) bool { return g == d }); n-len(got) != 1 {
			t.Errorf("%s with default %q: %d entries, want 1", d.key, d.value, n-len(got))
		}
	}
	for _, d := range got {
		t.Errorf("no policy has %s with default %q", d.key, d.value)
	}
}

func TestTheExamplesOfThePageArePolicies(t *testing.T) {
	examples := page(t).Examples
	for _, text := range examples {
		if _, err := Parse("example", []byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if len(examples) < 2 {
		t.Errorf("only %d examples were found", len(examples))
	}
}
