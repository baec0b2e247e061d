package page
import ("os";"testing")
func TestDump(t *testing.T){ f,_:=os.Create("/tmp/page-sample.html"); if err:=Write(f, sample()); err!=nil{t.Fatal(err)}; f.Close()
 f,_=os.Create("/tmp/page-crowd.html"); Write(f, crowd(500,30)); f.Close() }
