package term

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/coreos/go-systemd/v22/journal"
)

// A Level is a priority of syslog(3), by which journalctl -p picks lines.
type Level int

// What is no failure, but somebody may have to see to it, is a warning.
const (
	LevelErr     Level = 3
	LevelWarning Level = 4
	LevelNotice  Level = 5
	LevelInfo    Level = 6
)

// Streams returns stdout and stderr, for At to tell levels on those that go to systemd's journal.
func Streams(stdout, stderr io.Writer) (out, err io.Writer) {
	return toJournal(stdout, journal.StdoutIsJournalStream), toJournal(stderr, journal.StderrIsJournalStream)
}

func toJournal(w io.Writer, isJournal func() (bool, error)) io.Writer {
	if yes, err := isJournal(); yes && err == nil { // an error means that it cannot be told: lines go as they are
		return &leveled{w: w, level: LevelInfo}
	}
	return w
}

// At returns w for lines of that level. Where no journal reads them, it is w itself.
func At(w io.Writer, level Level) io.Writer {
	if l, ok := w.(*leveled); ok {
		return &leveled{w: l.w, level: level}
	}
	return w
}

// Warn tells of something that is no failure.
func Warn(w io.Writer, text string) {
	fmt.Fprintln(At(w, LevelWarning), "virt-rotate: warning:", text)
}

// leveled writes the level before each line, as sd-daemon(3) has it: <4>text.
type leveled struct {
	w      io.Writer
	level  Level
	within bool // a line has begun
}

func (l *leveled) Write(p []byte) (int, error) {
	var b bytes.Buffer
	for line := range bytes.Lines(p) {
		if !l.within {
			b.WriteString("<" + strconv.Itoa(int(l.level)) + ">")
		}
		b.Write(line)
		l.within = !bytes.HasSuffix(line, []byte("\n"))
	}
	if _, err := l.w.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}
