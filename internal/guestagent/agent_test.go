package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A script answers as an agent would, to see what is asked in which order; real agents are asked in
// integration/files_agent_test.go.
type script struct {
	answers map[string]string // by command
	fails   map[string]error
	asked   []string
}

func (s *script) ask(_ context.Context, text string) (string, error) {
	var c struct {
		Execute   string
		Arguments struct {
			Path, Mode string
			Arg        []string
			B64        []byte `json:"buf-b64"`
		}
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return "", err
	}
	said := strings.TrimSpace(strings.Join(append([]string{c.Execute, c.Arguments.Path, c.Arguments.Mode}, c.Arguments.Arg...), " "))
	if c.Execute == "guest-file-write" {
		said = fmt.Sprintf("%s %d", c.Execute, len(c.Arguments.B64))
		s.asked = append(s.asked, said)
		return fmt.Sprintf(`{"return":{"count":%d}}`, min(len(c.Arguments.B64), 100000)), s.fails[c.Execute]
	}
	s.asked = append(s.asked, said)
	for _, key := range []string{said, c.Execute} {
		if err := s.fails[key]; err != nil {
			return "", err
		}
	}
	if a, ok := s.answers[c.Execute]; ok {
		return a, nil
	}
	return `{"return":{}}`, nil
}

func newScript(programs bool) *script {
	return &script{
		answers: map[string]string{
			"guest-info":      fmt.Sprintf(`{"return":{"supported_commands":[{"name":"guest-exec","enabled":%v}]}}`, programs),
			"guest-file-open": `{"return":7}`, "guest-exec": `{"return":{"pid":5}}`, "guest-exec-status": `{"return":{"exited":true,"exitcode":0}}`,
		},
		fails: map[string]error{"guest-file-open /etc/f r": errors.New("failed to open file '/etc/f' (mode: 'r'): No such file or directory")},
	}
}

func (s *script) write(overwrite bool) (bool, error) {
	a := &Agent{s.ask}
	return a.Write(context.Background(), &File{Path: "/etc/f", Data: strings.NewReader(strings.Repeat("x", chunk+10)), Mode: 0o640, UID: 1, GID: 2, Overwrite: overwrite, Done: func(int64) {}})
}

func TestAFileIsWrittenBesideAndTakesItsPlace(t *testing.T) {
	s := newScript(true)
	if inPlace, err := s.write(false); inPlace || err != nil {
		t.Fatal(inPlace, err)
	}
	all := strings.Join(s.asked, "\n")
	for _, want := range []string{"guest-file-open /etc/f.virt-rotate-", "guest-exec chown  1:2", "guest-exec chmod  0640", "guest-exec mv  -fT /etc/f.virt-rotate-"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if slices.Contains(s.asked, "guest-file-open /etc/f w") {
		t.Error("it was opened for writing itself")
	}
	if n := strings.Count(all, "guest-file-write"); n != 3 { // one was short
		t.Errorf("%d writes\n%s", n, all)
	}
}

func TestWhatGoesWrongLeavesNoHalfFile(t *testing.T) {
	s := newScript(true)
	s.fails["guest-file-write"] = errors.New("no space left")
	if _, err := s.write(false); err == nil || !slices.ContainsFunc(s.asked, func(a string) bool { return strings.HasPrefix(a, "guest-exec rm  -f /etc/f.virt-rotate-") }) {
		t.Errorf("%v %q", err, s.asked)
	}
	s = newScript(false)
	s.fails["guest-file-write"] = errors.New("no space left")
	var incomplete *IncompleteError
	if inPlace, err := s.write(false); !inPlace || !errors.As(err, &incomplete) {
		t.Errorf("%v, %v", inPlace, err)
	}
}

func TestAFileThatIsThereIsOverwrittenWhenAskedOnly(t *testing.T) {
	for _, programs := range []bool{true, false} {
		s := newScript(programs)
		clear(s.fails)
		if _, err := s.write(false); !errors.Is(err, ErrThere) || strings.Contains(strings.Join(s.asked, "\n"), " w") {
			t.Errorf("%v %q", err, s.asked)
		}
		if inPlace, err := s.write(true); err != nil || inPlace == programs {
			t.Error(inPlace, err)
		}
	}
	s := newScript(true)
	s.fails["guest-file-open /etc/f r"] = errors.New("Permission denied")
	if _, err := s.write(true); err == nil {
		t.Error("it is not known whether it is there, and was written")
	}
	s.fails["guest-ping"] = errors.New("not connected")
	if _, err := s.write(true); err == nil || !strings.Contains(err.Error(), "qemu-guest-agent") {
		t.Error(err)
	}
}
