package term

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
	"github.com/virt-rotate/virt-rotate/rotate/host"
	"golang.org/x/term"
)

// logEvery is how often a merge shows its progress in a log.
const logEvery = 10 * time.Second

// A Progress shows what a run does: bars on a terminal, lines in a log.
type Progress struct {
	w     io.Writer
	Every time.Duration // between two lines in a log
	Brief bool          // in a log, nothing is said of merges that go well
	Quiet bool          // nothing is said but of a fault in the program

	mu   sync.Mutex      // guards what follows
	jobs map[string]*job // by domain and disk, or what is copied
	bars *bars           // nil where nobody looks
}

// A job is a merge or a copy on its way.
type job struct {
	asked time.Time // when its step began; it may have waited for others then
	begun time.Time // when the first bytes were told; zero before
	first int64     // and how many had been moved by then
	told  time.Time // when the last line in a log was
}

// NewProgress shows it on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, Every: logEvery, jobs: map[string]*job{}}
	if IsTerminal(w) {
		p.bars = newBars(w)
	}
	return p
}

// IsTerminal tells whether somebody looks at what is written to w.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Report shows what a rotation tells.
func (p *Progress) Report(e rotate.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := e.Domain + "/" + e.Step.Disk
	if e.Step.Op == decide.OpMemory {
		key += "memory"
	}
	switch e.Kind {
	case rotate.EventStep:
		p.jobs[key] = &job{asked: time.Now()}
	case rotate.EventProgress:
		p.show(key, e.Done, e.Total)
	case rotate.EventDone:
		p.done(key, &e.Step)
	case rotate.EventWarning:
		p.line(LevelWarning, e.Domain+": warning: "+e.Text)
	case rotate.EventFault:
		p.above(LevelErr, e.Domain+": "+e.Text)
	case rotate.EventOutput:
		p.line(LevelInfo, e.Domain+": "+e.Text)
	}
}

// done tells of a merge how long it took, without what it waited for others.
func (p *Progress) done(key string, s *decide.Step) {
	j := p.jobs[key]
	p.bars.remove(key)
	if s.Op != decide.OpMerge || j == nil {
		return
	}
	begun := j.begun
	if begun.IsZero() {
		begun = j.asked
	}
	p.detail(fmt.Sprintf("%s: merged %s in %s", key, host.Bytes(s.Bytes), time.Since(begun).Round(10*time.Millisecond)))
}

// Over takes the bars of a domain away whose work is over, however it ended.
func (p *Progress) Over(domain string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range slices.Collect(maps.Keys(p.jobs)) {
		if strings.HasPrefix(key, domain+"/") {
			p.bars.remove(key)
			delete(p.jobs, key)
		}
	}
}

// Warn tells what concerns no domain.
func (p *Progress) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(LevelWarning, "virt-rotate: warning: "+text)
}

// show tells how far a job is.
func (p *Progress) show(key string, done, total int64) {
	j, now := p.jobs[key], time.Now()
	if j == nil {
		j = &job{asked: now}
		p.jobs[key] = j
	}
	if j.begun.IsZero() {
		j.begun, j.first, j.told = now, done, now
	}
	switch {
	case p.Quiet:
	case p.bars != nil:
		p.bars.show(key, j, done, total)
	case now.Sub(j.told) >= p.Every:
		j.told = now
		p.detail(key + " " + barText(done, total) + " " + j.text(done, total, now))
	}
}

// drawEvery is how often a copy tells how far it is.
const drawEvery = 100 * time.Millisecond

// Copying returns a function that is told of each copied piece, in bytes, and
// shows how far that is. Total may turn out to be too much or too little.
func (p *Progress) Copying(key string, total int64) func(n int64) {
	var done int64
	p.mu.Lock()
	defer p.mu.Unlock()
	drawn := time.Now()
	p.jobs[key] = &job{asked: drawn, begun: drawn, told: drawn}
	return func(n int64) {
		p.mu.Lock()
		defer p.mu.Unlock()
		done += n
		if time.Since(drawn) >= drawEvery {
			drawn = time.Now()
			p.show(key, done, max(done, total))
		}
	}
}

// text tells bytes done, bytes in all, rate and time left.
func (j *job) text(done, total int64, now time.Time) string {
	text := fmt.Sprintf("%s of %s", host.Bytes(done), host.Bytes(total))
	if rate := j.rate(done, now); rate > 0 && done < total {
		text += fmt.Sprintf(", %s/s, %s left", host.Bytes(int64(rate)), left(done, total, rate))
	}
	return text
}

// short is text for a narrow terminal.
func (j *job) short(done, total int64, now time.Time) string {
	text := fmt.Sprintf("%d%%", int64(part(done, total)*100))
	if rate := j.rate(done, now); rate > 0 && done < total {
		text += fmt.Sprintf(", %s left", left(done, total, rate))
	}
	return text
}

// rate is in bytes per second since the first of them were moved.
func (j *job) rate(done int64, now time.Time) float64 {
	if took := now.Sub(j.begun).Seconds(); took > 0 {
		return float64(done-j.first) / took
	}
	return 0
}

func left(done, total int64, rate float64) time.Duration {
	return time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
}

func part(done, total int64) float64 {
	if total <= 0 {
		return 0
	}
	return min(1, float64(done)/float64(total))
}

// barText is a bar for logs.
func barText(done, total int64) string { return Bar(done, total, 24) }

// Bar is a bar of that width, beside its ends.
func Bar(done, total int64, width int) string {
	filled := int(part(done, total) * float64(width))
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}

// detail is a line that says that all goes well.
func (p *Progress) detail(text string) {
	if !p.Brief || p.bars != nil {
		p.line(LevelInfo, text)
	}
}

// line writes a line above the bars.
func (p *Progress) line(level Level, text string) {
	if !p.Quiet {
		p.above(level, text)
	}
}

// above is line that is not kept quiet.
func (p *Progress) above(level Level, text string) {
	if p.bars != nil {
		p.bars.above(text)
		return
	}
	fmt.Fprintln(At(p.w, level), text)
}

// End takes the bars off the terminal.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bars.end()
}
