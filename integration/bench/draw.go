package main

import (
	"errors"
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// lines are two colours that those who see no colours tell apart by brightness, and by their marks.
var lines = []struct {
	color color.Color
	mark  draw.GlyphDrawer
}{
	{color.RGBA{R: 0, G: 68, B: 136, A: 255}, draw.CircleGlyph{}},
	{color.RGBA{R: 221, G: 119, B: 34, A: 255}, draw.TriangleGlyph{}},
}

// drawPanels draws two panels in each row into an SVG file.
func drawPanels(panels []*panel, path string) error {
	const columns, width, height = 2, 14 * vg.Centimeter, 9 * vg.Centimeter
	rows := (len(panels) + columns - 1) / columns
	canvas := vgsvg.New(columns*width, vg.Length(rows)*height)
	var grid [][]*plot.Plot
	for i, p := range panels {
		if i%columns == 0 {
			grid = append(grid, make([]*plot.Plot, columns))
		}
		drawn, err := p.plot()
		if err != nil {
			return err
		}
		grid[i/columns][i%columns] = drawn
	}
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: vg.Centimeter, PadY: vg.Centimeter,
		PadTop: vg.Centimeter / 2, PadBottom: vg.Centimeter / 2, PadLeft: vg.Centimeter / 2, PadRight: vg.Centimeter / 2}
	whole := draw.New(canvas)
	whole.SetColor(color.White) // it is read on dark pages, too
	whole.Fill(whole.Path())
	for y, row := range plot.Align(grid, tiles, whole) {
		for x, c := range row {
			if grid[y][x] != nil {
				grid[y][x].Draw(c)
			}
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}

func (p *panel) plot() (*plot.Plot, error) {
	out := plot.New()
	out.Title.Text, out.X.Label.Text, out.Y.Label.Text = p.title, p.much, "seconds"
	out.X.Min, out.Y.Min = 0, 0
	out.Legend.Top, out.Legend.Left = true, true
	out.Add(plotter.NewGrid())
	for i, s := range p.series {
		xy := make(plotter.XYs, len(s.points))
		for k, at := range s.points {
			xy[k].X, xy[k].Y = at.much, at.seconds
		}
		line, marks, err := plotter.NewLinePoints(xy)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = lines[i%len(lines)].color, vg.Points(1.5)
		marks.Color, marks.Shape, marks.Radius = lines[i%len(lines)].color, lines[i%len(lines)].mark, vg.Points(3)
		out.Add(line, marks)
		out.Legend.Add(s.name, line, marks)
	}
	return out, nil
}
