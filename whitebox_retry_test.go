// White box: the backoff's arithmetic, for numbers of attempts that no run reaches.

package activity

import (
	"math"
	"math/big"
	"testing"
	"time"
)

// backoffReference is the formula of rule 13 in big.Float, without jitter.
// bounded is true when MaximumInterval or more comes out.
func backoffReference(p RetryPolicy, n int) (ns *big.Float, bounded bool) {
	limit := new(big.Float).SetInt64(int64(p.MaximumInterval))
	d := new(big.Float).SetPrec(400).SetInt64(int64(p.InitialInterval))
	if p.BackoffCoefficient == 1 {
		return d, d.Cmp(limit) >= 0
	}
	power, exponent := new(big.Float).SetPrec(400).SetFloat64(p.BackoffCoefficient), n-1
	for ; exponent > 0; exponent >>= 1 {
		if exponent&1 == 1 {
			d.Mul(d, power)
			if d.Cmp(limit) >= 0 {
				return limit, true
			}
		}
		// A square beyond the limit stays there: the next bit that is set ends it.
		if power.Cmp(limit) < 0 {
			power.Mul(power, power)
		}
	}
	return d, d.Cmp(limit) >= 0
}

func FuzzBackoff(f *testing.F) {
	f.Add(int64(0), int64(0), 0.0, 1, 0.0, 0.0)
	f.Add(int64(time.Second), int64(0), 2.0, 7, 0.0, 0.0)
	f.Add(int64(time.Second), int64(time.Minute), 1.5, 3000, 0.5, 0.5)
	f.Add(int64(0), int64(time.Millisecond), 1.0, math.MaxInt32, 1.0, 0.999)
	f.Add(int64(1), int64(math.MaxInt64), 2.0, 63, 1.0, 0.999)
	f.Add(int64(1), int64(math.MaxInt64), 2.0, 64, 0.0, 0.0)
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), math.MaxFloat64, 2, 1.0, math.Nextafter(1, 0))
	f.Add(int64(1)<<53+1, int64(1)<<53+1, 1.0, 1, 0.0, 0.0)
	f.Add(int64(1), int64(math.MaxInt64), math.Nextafter(1, 2), 1000000, 0.0, 0.0)
	f.Add(int64(3), int64(0), 1.1, 20, 0.1, 0.7)
	f.Fuzz(func(t *testing.T, initial, maximum int64, coefficient float64, n int, jitter, random float64) {
		p := RetryPolicy{InitialInterval: time.Duration(initial), MaximumInterval: time.Duration(maximum), BackoffCoefficient: coefficient, Jitter: jitter}
		if p.validate() != nil || n < 1 || !(random >= 0 && random < 1) {
			t.Skip()
		}
		p.setDefaults()
		if p.InitialInterval <= 0 || p.InitialInterval > p.MaximumInterval || p.BackoffCoefficient < 1 {
			t.Fatalf("the defaults make no sense: %+v", p)
		}

		d := p.interval(n, random)
		if d < 0 || d > p.MaximumInterval {
			t.Fatalf("interval(%d, %v) of %+v is %d", n, random, p, d)
		}
		p.Jitter = 0
		whole := p.interval(n, random)
		if least := float64(whole) * (1 - jitter); d > whole || float64(d) < least*(1-1e-9)-1 {
			t.Fatalf("interval(%d, %v) of %+v is %d with a jitter of %v, and %d without", n, random, p, d, jitter, whole)
		}
		if n < math.MaxInt {
			if next := p.interval(n+1, 0); next < whole {
				t.Fatalf("interval(%d) of %+v is %d, and the next %d", n, p, whole, next)
			}
		}

		// Squaring doubles a relative error: at worst math.Pow's is that of a float64, n times.
		want, bounded := backoffReference(p, n)
		if bounded {
			want.SetInt64(int64(p.MaximumInterval))
		}
		diff := new(big.Float).Sub(want, new(big.Float).SetInt64(int64(whole)))
		allowed := new(big.Float).Mul(want, big.NewFloat((float64(n)+2)*0x1p-52))
		allowed.Add(allowed, big.NewFloat(1))
		if diff.Abs(diff).Cmp(allowed) > 0 {
			t.Fatalf("interval(%d) of %+v is %d, want %s", n, p, whole, want.Text('f', 3))
		}
	})
}
