// Package guestagent writes files in a running guest, by its QEMU guest agent.
//
// The file is written beside the one that is meant, and then takes its place, where the agent
// runs programs; owner and mode are set before. Where it does not, or on Windows, it is written in
// place.
package guestagent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// An Agent runs commands of the QEMU guest agent.
type Agent struct {
	Ask func(ctx context.Context, command string) (answer string, err error)
}

// A File is what is to be written.
type File struct {
	Path      string // in the guest
	Data      io.Reader
	Mode      uint32 // of permissions
	UID, GID  uint32
	Overwrite bool
	Done      func(n int64) // bytes that were written
}

// ErrThere says that the guest has such a file.
var ErrThere = errors.New("the guest has it already; --force overwrites it")

// An IncompleteError says that a file in the guest is not whole.
type IncompleteError struct {
	Path string
	Err  error
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s in the guest is not complete: %v", e.Path, e.Err)
}

func (e *IncompleteError) Unwrap() error { return e.Err }

// chunk is how much is written at a time, in bytes: messages of agents are bounded.
const chunk = 128 << 10

// Write writes a file, and tells whether it had to be in place, with the guest's own owner and mode.
func (a *Agent) Write(ctx context.Context, f *File) (inPlace bool, err error) {
	if err := a.call(ctx, "guest-ping", nil, nil); err != nil {
		return false, fmt.Errorf("the guest's agent does not answer (package qemu-guest-agent in the guest): %w", err)
	}
	switch there, err := a.there(ctx, f.Path); {
	case err != nil:
		return false, err
	case there && !f.Overwrite:
		return false, ErrThere
	}
	if !a.runsPrograms(ctx) {
		if err := a.fill(ctx, f.Path, f); err != nil {
			return true, &IncompleteError{f.Path, err}
		}
		return true, nil
	}
	return false, a.replace(ctx, f)
}

// replace writes a file beside the one that is meant, and lets it take its place.
func (a *Agent) replace(ctx context.Context, f *File) error {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	part := f.Path + ".virt-rotate-" + hex.EncodeToString(b[:])
	err := a.fill(ctx, part, f)
	for _, args := range [][]string{
		{"chown", fmt.Sprintf("%d:%d", f.UID, f.GID), part}, {"chmod", fmt.Sprintf("%04o", f.Mode), part}, {"mv", "-fT", part, f.Path},
	} {
		if err == nil {
			err = a.run(ctx, args)
		}
	}
	if err == nil {
		return nil
	}
	if removed := a.run(context.WithoutCancel(ctx), []string{"rm", "-f", part}); removed != nil {
		return errors.Join(err, fmt.Errorf("%s may be left in the guest: %w", part, removed))
	}
	return err
}

// call runs a command.
func (a *Agent) call(ctx context.Context, command string, arguments, result any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answer, err := a.Ask(ctx, string(text))
	if err != nil || result == nil {
		return err
	}
	reply := struct {
		Return any `json:"return"`
	}{result}
	if err := json.Unmarshal([]byte(answer), &reply); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// there tells whether the guest has a file.
func (a *Agent) there(ctx context.Context, path string) (bool, error) {
	handle, err := a.open(ctx, path, "r")
	if err == nil {
		return true, a.close(ctx, handle)
	}
	text := strings.ToLower(err.Error())
	for _, none := range []string{"no such file", "cannot find the file", "not find the path"} { // glibc, Windows
		if strings.Contains(text, none) {
			return false, nil
		}
	}
	return false, err
}

func (a *Agent) open(ctx context.Context, path, mode string) (handle int64, err error) {
	err = a.call(ctx, "guest-file-open", map[string]any{"path": path, "mode": mode}, &handle)
	return handle, err
}

func (a *Agent) close(ctx context.Context, handle int64) error {
	return a.call(ctx, "guest-file-close", map[string]any{"handle": handle}, nil)
}

// fill writes all data into a file.
func (a *Agent) fill(ctx context.Context, path string, f *File) error {
	handle, err := a.open(ctx, path, "w")
	if err != nil {
		return err
	}
	err = a.copy(ctx, handle, f)
	if err == nil {
		err = a.call(ctx, "guest-file-flush", map[string]any{"handle": handle}, nil)
	}
	return errors.Join(err, a.close(context.WithoutCancel(ctx), handle))
}

func (a *Agent) copy(ctx context.Context, handle int64, f *File) error {
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(f.Data, buf)
		if n > 0 {
			if err := a.send(ctx, handle, buf[:n]); err != nil {
				return err
			}
			f.Done(int64(n))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// send writes b, as often as that takes.
func (a *Agent) send(ctx context.Context, handle int64, b []byte) error {
	for len(b) > 0 {
		var wrote struct{ Count int }
		err := a.call(ctx, "guest-file-write", map[string]any{"handle": handle, "buf-b64": base64.StdEncoding.EncodeToString(b)}, &wrote)
		if err != nil {
			return err
		}
		if wrote.Count <= 0 || wrote.Count > len(b) {
			return fmt.Errorf("the agent says that it wrote %d of %d bytes", wrote.Count, len(b))
		}
		b = b[wrote.Count:]
	}
	return nil
}

// runsPrograms tells whether the agent may run programs, and those of Unix are there.
func (a *Agent) runsPrograms(ctx context.Context) bool {
	var info struct {
		Commands []struct {
			Name    string
			Enabled bool
		} `json:"supported_commands"`
	}
	if a.call(ctx, "guest-info", nil, &info) != nil {
		return false
	}
	for _, c := range info.Commands {
		if c.Name == "guest-exec" && c.Enabled {
			return a.run(ctx, []string{"true"}) == nil
		}
	}
	return false
}

// runEvery is how often the agent is asked whether a program has ended.
const runEvery = 50 * time.Millisecond

// run runs a program in the guest, to its end.
func (a *Agent) run(ctx context.Context, args []string) error {
	var started struct{ PID int64 }
	if err := a.call(ctx, "guest-exec", map[string]any{"path": args[0], "arg": args[1:], "capture-output": true}, &started); err != nil {
		return err
	}
	for {
		var status struct {
			Exited   bool
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Err      []byte `json:"err-data"`
		}
		if err := a.call(ctx, "guest-exec-status", map[string]any{"pid": started.PID}, &status); err != nil {
			return err
		}
		switch {
		case !status.Exited:
			time.Sleep(runEvery)
		case status.ExitCode != 0 || status.Signal != 0:
			return fmt.Errorf("%s in the guest: exit status %d: %s", args[0], status.ExitCode, strings.TrimSpace(string(status.Err)))
		default:
			return nil
		}
	}
}
