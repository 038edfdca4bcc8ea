package figures

import "math"

// Quantile is the smallest sample that a share q of all does not exceed; NaN of none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// Point is a value at a count.
type Point struct{ At, Value float64 }

// Slope is by how much the value grows with each more: the least squares line through all
// points, which for two of them is the line between them. NaN if all are at one count.
func Slope(points []Point) float64 {
	n, at, value := float64(len(points)), 0.0, 0.0
	for _, p := range points {
		at, value = at+p.At/n, value+p.Value/n
	}
	over, under := 0.0, 0.0
	for _, p := range points {
		over += (p.At - at) * (p.Value - value)
		under += (p.At - at) * (p.At - at)
	}
	return over / under
}
