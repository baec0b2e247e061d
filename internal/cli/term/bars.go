package term

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bars are drawn on a terminal, one below the other. The methods of nil do nothing.
type bars struct {
	w    io.Writer
	all  *mpb.Progress // nil until the first bar
	each map[string]*mpb.Bar
}

func newBars(w io.Writer) *bars { return &bars{w: w, each: map[string]*mpb.Bar{}} }

// narrow is the width beside the names, in columns, below which a bar tells only the share
// and the time left.
const narrow = 64

// show moves the bar of a job, and makes it where there is none.
func (b *bars) show(key string, j *job, done, total int64) {
	if b.all == nil {
		b.all = mpb.New(mpb.WithConsoleWriter(&reflowed{ConsoleWriter: cupwriter.New(b.w, false), w: b.w}), mpb.WithRefreshRate(drawEvery))
	}
	bar := b.each[key]
	if bar == nil {
		bar = b.all.New(total, mpb.BarStyle().Lbound("[").Filler("#").Tip("#").Padding(".").Rbound("]"),
			mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string { return nameText(key, s.AvailableWidth) }, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return figures(j, &s) })),
			mpb.BarRemoveOnComplete())
		b.each[key] = bar
	}
	bar.SetTotal(max(total, done+1), false) // it ends when it is taken away, and not before
	bar.SetCurrent(done)
}

func figures(j *job, s *decor.Statistics) string {
	if s.AvailableWidth < narrow {
		return j.short(s.Current, s.Total, time.Now())
	}
	return j.text(s.Current, s.Total, time.Now())
}

// nameText leaves at least two thirds of the width to bar and figures.
func nameText(key string, width int) string {
	letters := []rune(Printable(key))
	if most := max(8, width/3); len(letters) > most {
		letters = append([]rune("…"), letters[len(letters)-most+1:]...)
	}
	return string(letters)
}

// above writes a line above the bars.
func (b *bars) above(text string) {
	if b.all == nil {
		fmt.Fprintln(b.w, text)
		return
	}
	if _, err := fmt.Fprintln(b.all, text); err != nil { // they are drawn no more
		fmt.Fprintln(b.w, text)
	}
}

// remove takes the bar of a job away.
func (b *bars) remove(key string) {
	if b == nil || b.each[key] == nil {
		return
	}
	b.each[key].Abort(true)
	b.each[key].Wait()
	delete(b.each, key)
}

// end takes all bars away, and waits until they are off the terminal.
func (b *bars) end() {
	if b == nil || b.all == nil {
		return
	}
	for key := range b.each {
		b.remove(key)
	}
	b.all.Wait()
	b.all = nil
}

// A reflowed terminal breaks long rows anew when it becomes narrower: the bars that are to
// be drawn over take more lines then.
type reflowed struct {
	mpb.ConsoleWriter
	w           io.Writer
	rows, width int // as they were drawn last
}

// Flush draws over the rows of the last call.
func (r *reflowed) Flush(rows int) error {
	width, _, err := r.GetTermSize()
	if err == nil && width > 0 {
		if more := r.rows * ((r.width - 1) / width); r.width > width && more > 0 {
			fmt.Fprintf(r.w, "\x1b[%dA", more)
		}
		r.rows, r.width = rows, width
	}
	return r.ConsoleWriter.Flush(rows)
}
