package page

import (
	"fmt"
	"html/template"
	"image/color"
	"math"
	"slices"
	"time"

	"github.com/virt-rotate/virt-rotate/rotate/host"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Classes of what plots consist of.
const (
	axisInk ink = "ax"
	dataInk ink = "da"
)

// The size of a plot, in points; the page stretches it.
const (
	plotWidth  = 300
	plotHeight = 96
)

// A curve is one figure of the history.
type curve struct {
	Title string
	Told  string // the figures in words
	SVG   template.HTML
}

// A figure is what a curve shows of a point, and how its values are written.
type figure struct {
	title string
	value func(*Point) float64
	text  func(float64) string
	unit  func(most float64) float64 // distance of ticks
	steps bool                       // it stays as it is until the next run; else there are bars
}

func sizeText(v float64) string { return host.Bytes(int64(v)) }

func figures() []figure {
	return []figure{
		{"Space on disk", func(p *Point) float64 { return float64(p.Allocated) }, sizeText, binaryUnit, true},
		{"Layers of the longest chain", func(p *Point) float64 { return float64(p.Layers) }, num, wholeUnit, true},
		{"Duration of runs", func(p *Point) float64 { return p.Took }, func(v float64) string { return num(v) + " s" }, decimalUnit, false},
		{"Bytes merged", func(p *Point) float64 { return float64(p.Merged) }, sizeText, binaryUnit, false},
	}
}

// curves draws the history; nil where there is too little of it.
func curves(history []Point, c clock) ([]curve, error) {
	if len(history) < 2 {
		return nil, nil
	}
	var all []curve
	for _, f := range figures() {
		values := make([]float64, len(history))
		for i := range history {
			values[i] = f.value(&history[i])
			if math.IsNaN(values[i]) || math.IsInf(values[i], 0) {
				values[i] = 0
			}
		}
		svg, err := f.draw(history, values, c)
		if err != nil {
			return nil, fmt.Errorf("plot of %s: %w", f.title, err)
		}
		told := fmt.Sprintf("%s at first, %s at last, between %s and %s, in %s from %s to %s", f.text(values[0]), f.text(values[len(values)-1]),
			f.text(slices.Min(values)), f.text(slices.Max(values)), host.Plural(len(history), "run"), c.stamp(history[0].Time), c.stamp(history[len(history)-1].Time))
		all = append(all, curve{f.title, told, svg})
	}
	return all, nil
}

// draw lets the library place axes and lines.
func (f *figure) draw(history []Point, values []float64, c clock) (template.HTML, error) {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	most := slices.Max(values)
	p.Y.Min, p.Y.Max = 0, max(most*1.05, f.unit(most))
	p.X.Min, p.X.Max = seconds(history[0].Time), seconds(history[len(history)-1].Time)
	if p.X.Max <= p.X.Min {
		p.X.Max = p.X.Min + 1
	}
	p.Y.Tick.Marker = plot.TickerFunc(func(_, _ float64) []plot.Tick { return f.ticks(most) })
	p.X.Tick.Marker = plot.TickerFunc(func(lo, hi float64) []plot.Tick { return days(lo, hi, c) })
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Color, a.Tick.Color, a.Tick.Label.Color = axisInk, axisInk, axisInk
		a.Tick.Label.Font.Size, a.Tick.Length, a.Padding = 9, 3, 2
	}
	if err := f.add(p, history, values); err != nil {
		return "", err
	}
	on := newCanvas(plotWidth, plotHeight)
	area := draw.New(on)
	p.Draw(draw.Crop(area, 1, -6, 1, -5))
	return template.HTML(on.SVG()), nil //nolint:gosec // made of numbers, and of text that is escaped
}

// add adds the lines.
func (f *figure) add(p *plot.Plot, history []Point, values []float64) error {
	xy := make(plotter.XYs, 0, len(values))
	for i, v := range values {
		x := seconds(history[i].Time)
		if f.steps {
			xy = append(xy, plotter.XY{X: x, Y: v})
			continue
		}
		if v <= 0 {
			continue
		}
		bar, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: v}})
		if err != nil {
			return err
		}
		bar.Color, bar.Width = dataInk, vg.Points(1)
		p.Add(bar)
	}
	if !f.steps {
		return nil
	}
	line, err := plotter.NewLine(xy)
	if err != nil {
		return err
	}
	line.StepStyle, line.Color = plotter.PostStep, dataInk
	p.Add(line)
	return nil
}

func seconds(t time.Time) float64 { return float64(t.Unix()) }

// ticks are two or three, from 0 on.
func (f *figure) ticks(most float64) []plot.Tick {
	unit := f.unit(most)
	ticks := []plot.Tick{{Value: 0, Label: f.text(0)}}
	for v := unit; v <= max(most, unit)*1.02 && len(ticks) < 5; v += unit {
		ticks = append(ticks, plot.Tick{Value: v, Label: f.text(v)})
	}
	return ticks
}

// binaryUnit is a power of two, so that labels are whole numbers of units.
func binaryUnit(most float64) float64 {
	if most < 2 {
		return 1
	}
	return math.Exp2(math.Floor(math.Log2(most / 1.5)))
}

// decimalUnit is 1, 2 or 5 times a power of ten.
func decimalUnit(most float64) float64 {
	if most <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, factor := range []float64{5, 2, 1} {
		if unit*factor*1.5 <= most {
			return unit * factor
		}
	}
	return unit / 2
}

func wholeUnit(most float64) float64 { return max(1, math.Ceil(decimalUnit(most))) }

// days are up to three times on the axis.
func days(lo, hi float64, c clock) []plot.Tick {
	format := "01-02"
	if hi-lo < 3*24*3600 {
		format = "01-02 15:04"
	}
	var ticks []plot.Tick
	for _, part := range []float64{0.08, 0.5, 0.92} {
		at := lo + (hi-lo)*part
		ticks = append(ticks, plot.Tick{Value: at, Label: time.Unix(int64(at), 0).In(c.now.Location()).Format(format)})
	}
	return ticks
}
