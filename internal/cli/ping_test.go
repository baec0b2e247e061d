package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/rotate"
)

// pingPolicy is a policy whose services are on a server that notes what it hears.
func pingPolicy(t *testing.T, text, more string) (flags []string, heard func() []string) {
	t.Helper()
	requests := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests <- r.Method + " " + r.URL.Path + " " + string(body)
	}))
	t.Cleanup(server.Close)
	flags = policyFile(t, fmt.Sprintf("ping = { start = %q, success = %q, failure = %q%s }\n", server.URL+"/start", server.URL+"/ok", server.URL+"/fail", more)+text)
	return flags, func() []string {
		var all []string
		for len(requests) > 0 {
			all = append(all, <-requests)
		}
		return all
	}
}

func wantHeard(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("the services heard %q, want %q", got, want)
	}
}

func TestServicesHearHowARunEnds(t *testing.T) {
	flags, heard := pingPolicy(t, goodPolicy, "")
	if _, errs, code := call(t, append(flags, "run")...); code != term.ExitRefused || errs != "" {
		t.Errorf("exit %d, %q", code, errs)
	}
	told := heard()
	wantHeard(t, told, "POST /start virt-rotate run begins on ", "POST /fail virt-rotate run on ")
	if len(told) == 2 && !strings.HasSuffix(told[1], "\ntest: refused: unreadable: /guest/diskimage1: stat /guest/diskimage1: no such file or directory\n") {
		t.Errorf("the report is %q", told[1])
	}

	lock, err := rotate.Lock(stateDir(flags))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, code := call(t, append(flags, "run")...); code != term.ExitLocked {
		t.Errorf("exit %d", code)
	}
	lock.Close()
	wantHeard(t, heard())

	for _, command := range []string{"plan", "status", "doctor"} {
		call(t, append(flags, command)...)
	}
	wantHeard(t, heard())

	call(t, append(slices.Concat(flags[:4], []string{"--connect", "test:///no/such/file"}), "run")...)
	wantHeard(t, heard(), "POST /fail virt-rotate run on ")
}

func TestAServiceThatOnlyTakesGet(t *testing.T) {
	flags, heard := pingPolicy(t, strings.Replace(goodPolicy, `["test"]`, `["other"]`, 1), `, method = "GET", timeout = "1m"`)
	if _, _, code := call(t, append(flags, "run")...); code != 0 {
		t.Errorf("exit %d", code)
	}
	wantHeard(t, heard(), "GET /start ", "GET /ok ")
}

// A service that cannot be reached is a warning, and the address stays secret.
func TestAServiceThatIsNotThere(t *testing.T) {
	flags := policyFile(t, "ping = { start = \"http://127.0.0.1:1/secret\", failure = \"http://127.0.0.1:1/secret\" }\n"+goodPolicy)
	_, errs, code := call(t, append(flags, "run")...)
	if code != term.ExitRefused || strings.Count(errs, "virt-rotate: warning: ping: 127.0.0.1:1: ") != 2 || strings.Contains(errs, "secret") {
		t.Errorf("exit %d, %q", code, errs)
	}
	if _, errs, code = call(t, append(flags, "run", "-q")...); code != term.ExitRefused || errs != "" {
		t.Errorf("quiet: exit %d, %q", code, errs)
	}
}
