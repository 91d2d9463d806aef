"""The style sheet of the page: two colour schemes, one column on a phone. Contrasts of text are 4.5
to 1 and more, of marks 3 to 1. A backslash continues a line of it in the next. Imports no torch.
"""

STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d1f24;--soft:#5a606b;--rule:#d9d9d4;
--person:#1f5fbf;--without:#8a5a00;--stranger:#b3261e;--good:#1b6e3a;--bad:#b3261e;\
--shade:rgba(0,0,0,.22)}
@media (prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1e2127;--ink:#eceef2;\
--soft:#a7aeba;--rule:#3a3f48;
--person:#7fb2ff;--without:#e0b050;--stranger:#ff8f86;--good:#76d39a;--bad:#ff8f86;\
--shade:rgba(0,0,0,.6)}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}\
h3{font-size:1rem;margin:1rem 0 .25rem}
small,figcaption{color:var(--soft);font-size:.85rem}
h3 small{font-weight:400}article{margin-bottom:1.5rem}article p{margin:.25rem 0 .5rem}
.verdict{display:inline-block;margin:0 0 .5rem;padding:.15rem .7rem;border:2px solid;\
border-radius:1rem;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}
.cards,.legend{list-style:none;padding:0;margin:.5rem 0;display:flex;flex-wrap:wrap;gap:.75rem}
.cards li{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;\
padding:.5rem .75rem;flex:1 1 13rem}
.cards b{display:block;font-size:1.6rem;font-variant-numeric:tabular-nums}\
.cards span{color:var(--soft);font-size:.85rem}
.legend{gap:1rem;font-size:.85rem}.legend li{display:flex;align-items:center;gap:.35rem}\
.key{width:1rem;height:1rem}
figure{margin:0}
.plots{columns:2 20rem;column-gap:1rem}.plots h3{margin-top:0}
.plots figure{break-inside:avoid;background:var(--card);border:1px solid var(--rule);\
border-radius:.5rem;padding:.75rem;margin-bottom:1rem}
.chart{display:block;width:100%;max-width:32rem;height:auto}
.seeds{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem}
.strip{display:grid;grid-template-columns:repeat(3,minmax(0,11rem));gap:.5rem}\
.of-2{grid-template-columns:repeat(2,minmax(0,11rem))}
code{white-space:nowrap;font-size:.95em}
.strip img,.none{display:block;width:100%;aspect-ratio:1;object-fit:cover;border-radius:.25rem;\
background:var(--rule)}
.strip figcaption{color:var(--ink);font-variant-numeric:tabular-nums}.strip small{display:block}
.who{margin:.25rem 0}.command{margin:0 0 .75rem;color:var(--soft)}\
.command code{display:block;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;\
line-height:1.45}
.required{list-style:none;padding:0;margin:0 0 .5rem;font-variant-numeric:tabular-nums}
.about{margin:0 0 .5rem;color:var(--soft);font-size:.85rem}
.hint{display:none}.word{display:inline-block;max-width:100%}
.scroll{overflow-x:auto;background:linear-gradient(to right,var(--paper) 30%,transparent),\
linear-gradient(to left,var(--paper) 30%,transparent) 100% 0,\
linear-gradient(to right,var(--shade),transparent),\
linear-gradient(to left,var(--shade),transparent) 100% 0;\
background-repeat:no-repeat;background-size:2.5rem 100%,2.5rem 100%,.9rem 100%,.9rem 100%;\
background-attachment:local,local,scroll,scroll}
.scroll:focus-visible{outline:2px solid var(--person)}
table{border-collapse:collapse;font-size:.9rem;width:100%}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--rule);text-align:right;\
white-space:nowrap;font-variant-numeric:tabular-nums}
th[scope=row],.text,thead th:nth-child(-n+2){text-align:left}
thead th{white-space:normal;vertical-align:bottom}
.scroll th:first-child{position:sticky;left:0;background:var(--paper)}
.words th,.words td{vertical-align:top}.words .text{width:99%;white-space:normal;\
overflow-wrap:anywhere}
tfoot th,tfoot td{font-weight:600}
svg text{fill:var(--ink);font-size:11px}svg .tick,svg .axis{fill:var(--soft);font-size:10px}\
.mid{text-anchor:middle}.end{text-anchor:end}
.grid,.rule{stroke:var(--rule);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1}\
.limit{stroke:var(--ink);stroke-dasharray:3 3}.pairs{stroke:var(--ink);stroke-dasharray:1 3}
.mark{stroke-width:1.5}.person{fill:var(--person);stroke:var(--person)}
.without{fill:none;stroke:var(--without)}.stranger{fill:none;stroke:var(--stranger)}
.faint{fill-opacity:.45;stroke-opacity:.75}.mean{stroke-width:3}.cross{fill:none;stroke-width:2}
.curve{fill:none;stroke-width:2.5}.curve.without{stroke-dasharray:6 4}\
.curve.stranger{stroke-dasharray:2 3}
@media (max-width:64rem){.hint{display:inline}}
@media (max-width:30rem){.words{font-size:.8rem}.words th{white-space:normal}\
svg text{font-size:13px}svg .tick,svg .axis{font-size:12px}}
@media print{.scroll{overflow:visible}}
"""
