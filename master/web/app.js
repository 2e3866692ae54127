// The page of the master. It polls one address, and asks for files when somebody wants to see them.
//
// What must hold: every name comes from somebody who may wish us ill, so text only ever gets into the page as text
// (textContent); there is no innerHTML here.
'use strict';

const POLL_MS = 2000;
const PAGE_ROWS = 200;
const NS = 'http://www.w3.org/2000/svg';
const at = (id) => document.getElementById(id);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

const count = (number) => Math.round(number).toLocaleString('en');

function period(ms) {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

// Where auth is on: the master keeps the token in a cookie that no script can read. A film has it then, too.
function showLogin(wanted, note, asked) {
  // What somebody was told stays until he is let in, or asks again.
  if (!wanted || asked || at('login').hidden) at('login-note').textContent = wanted ? note : '';
  at('login').hidden = !wanted;
}

async function ask(path, how) {
  const answer = await fetch(path, { ...how, signal: AbortSignal.timeout(20000) });
  const body = await answer.json();
  const refused = answer.status === 401 || answer.status === 403;
  const asked = how && how.headers;
  showLogin(refused, answer.status === 401 && !asked ? 'This cluster wants to know who you are.' : body.error, asked);
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

// ---- figures

function tile(value, words, state) {
  const box = make('div', undefined, `tile ${state || ''}`);
  box.append(make('b', value), make('span', words));
  return box;
}

function showFigures(now) {
  const f = now.figures;
  const health = at('health');
  const dead = f.keepers_dead;
  const [words, state] = now.store_fails ? ['store fails', 'bad']
    : f.lost ? ['chunks lost', 'bad']
    : f.endangered ? ['chunks endangered', 'bad']
    : dead ? [`${dead} ${dead === 1 ? 'keeper' : 'keepers'} dead`, 'warn']
    : f.under_replicated ? ['repairing', 'warn'] : ['all is well', 'good'];
  health.textContent = words;
  health.className = `pill ${state}`;
  at('cluster').textContent = now.cluster;
  const full = f.total_bytes ? 1 - f.free_bytes / f.total_bytes : 0;
  at('tiles').replaceChildren(
    tile(count(f.keepers_live), 'live keepers'),
    tile(count(dead), 'dead keepers', dead ? 'bad' : ''),
    tile(count(f.mounts), 'mounts'),
    tile(now.status ? count(now.status.files) : '…', 'files'),
    tile(now.status ? size(now.status.bytes) : '…', 'in files'),
    tile(size(f.free_bytes), `free of ${size(f.total_bytes)}`, full > 0.95 ? 'bad' : full > 0.9 ? 'warn' : ''),
    tile(count(f.chunks), 'chunks'),
    tile(count(f.under_replicated), 'want copies', f.under_replicated ? 'warn' : ''),
    tile(count(f.endangered), 'endangered', f.endangered ? 'bad' : ''),
    tile(count(f.lost), 'lost', f.lost ? 'bad' : ''),
  );
}

// ---- keepers

function keeperTags(keeper) {
  const tags = [];
  if (!keeper.alive) tags.push(['dead', 'bad']);
  else if (keeper.read_only) tags.push(['read-only', 'warn']);
  else tags.push(['live', 'good']);
  if (keeper.drained) tags.push(['drained', '']);
  else if (keeper.draining) tags.push(['draining', 'warn']);
  if (keeper.maintenance_left_ms) tags.push([`maintenance ${period(keeper.maintenance_left_ms)}`, 'warn']);
  return tags.map(([words, state]) => make('span', words, `tag ${state}`));
}

function showKeepers(keepers, rates) {
  at('keepers').replaceChildren(...keepers.map((keeper) => {
    const card = make('article', undefined, `card ${keeper.alive ? '' : 'dead'}`);
    const title = make('h3');
    title.append(make('span', `${keeper.keeper} · ${keeper.address}`), ...keeperTags(keeper));
    const full = keeper.used + keeper.free ? keeper.used / (keeper.used + keeper.free) : 0;
    const meter = make('div', undefined, 'meter');
    const fill = make('i', undefined, full > 0.95 ? 'bad' : full > 0.9 ? 'warn' : '');
    fill.style.width = `${(100 * full).toFixed(1)}%`;
    meter.append(fill);
    const rate = rates[keeper.keeper];
    const load = keeper.alive && rate
      ? `reads ${size(rate.read)}/s, writes ${size(rate.written)}/s`
      : `last heard ${period(keeper.last_heard_ms)} ago`;
    const labels = Object.entries(keeper.labels).map(([name, value]) => `${name}=${value}`).join(', ');
    card.append(title, meter,
      make('p', `${size(keeper.used)} used, ${size(keeper.free)} free, ${count(keeper.chunks)} chunks`),
      make('p', load), make('p', labels));
    if (keeper.quarantine_files) card.append(make('p', `${count(keeper.quarantine_files)} bad copies kept aside`));
    if (keeper.stuck) card.append(make('p', `its drain cannot end: ${keeper.stuck}`));
    return card;
  }));
  if (!keepers.length) at('keepers').append(make('p', 'No keeper has joined yet.', 'quiet'));
}

// ---- what is under way

function showWork(now) {
  const lines = [];
  const f = now.figures;
  if (f.under_replicated || f.copies_under_way) {
    lines.push(`Repair: chunks that want copies: ${count(f.under_replicated)}, copies under way: ${count(f.copies_under_way)}`);
  }
  for (const order of now.orders) {
    lines.push(`Copy of chunk ${order.chunk}: keeper ${order.source} to keeper ${order.destination}`);
  }
  for (const keeper of now.keepers.filter((k) => k.draining && !k.drained)) {
    lines.push(`Drain of keeper ${keeper.keeper}: chunks left on it: ${count(keeper.chunks)}`);
  }
  const r = now.rebalance;
  if (r.running) lines.push(`Rebalance: ${size(r.moved_bytes)} moved, ${size(r.left_bytes)} too much on full keepers`);
  if (f.compactions_under_way || f.compactions_waiting) {
    lines.push(`Compaction: chunks being built: ${count(f.compactions_under_way)}, files waiting: ${count(f.compactions_waiting)}`);
  }
  at('work').replaceChildren(...(lines.length ? lines.map((line) => make('li', line)) : [make('li', 'Nothing.', 'quiet')]));
}

function showTrouble(trouble) {
  at('trouble').hidden = !(trouble.lost || trouble.endangered);
  const found = trouble.files.map((file) => {
    const line = make('li');
    const [words, state] = file.lost ? [`${count(file.lost)} lost`, 'bad'] : [`${count(file.endangered)} endangered`, 'warn'];
    line.append(make('span', words, `tag ${state}`), document.createTextNode(` ${file.file}`));
    return line;
  });
  at('trouble-files').replaceChildren(...found);
  at('trouble-note').textContent = `Chunks lost: ${count(trouble.lost)}, endangered: ${count(trouble.endangered)}. `
    + (trouble.scanning ? 'Looking for their files.' : trouble.more ? `The first ${trouble.files.length} files:` : '');
}

// ---- charts

function path(values, largest, name) {
  const line = document.createElementNS(NS, 'path');
  const x = (n) => (values.length > 1 ? (n * 360) / (values.length - 1) : 360);
  const points = values.map((v, n) => `${x(n).toFixed(1)},${(98 - (92 * v) / largest).toFixed(1)}`);
  line.setAttribute('d', points.length ? `M${points.join('L')}` : '');
  line.setAttribute('class', name);
  return line;
}

function chart(svg, series) {
  svg.setAttribute('viewBox', '0 0 360 100');
  svg.setAttribute('preserveAspectRatio', 'none');
  const grid = document.createElementNS(NS, 'path');
  grid.setAttribute('d', 'M0,98H360M0,52H360M0,6H360');
  grid.setAttribute('class', 'grid');
  svg.replaceChildren(grid, ...series.map(([values, name, least]) => path(values, Math.max(least, ...values), name)));
}

function showHistory(samples) {
  const of = (name) => samples.map((sample) => sample[name]);
  const both = Math.max(1, ...of('read'), ...of('written'));
  chart(at('chart-bytes'), [[of('read'), 'read', both], [of('written'), 'written', both]]);
  chart(at('chart-requests'), [[of('requests'), 'requests', 1], [of('repaired'), 'repaired', 1]]);
  const last = samples[samples.length - 1] || { read: 0, written: 0, requests: 0, repaired: 0 };
  at('most-bytes').textContent = `at most ${size(both)}/s`;
  at('most-requests').textContent = `at most ${count(Math.max(0, ...of('requests')))}/s and ${size(Math.max(0, ...of('repaired')))}/s`;
  at('now-read').textContent = `${size(last.read)}/s`;
  at('now-written').textContent = `${size(last.written)}/s`;
  at('now-requests').textContent = `${count(last.requests)}/s`;
  at('now-repaired').textContent = `${size(last.repaired)}/s`;
}

function showEvents(events) {
  at('events').replaceChildren(...events.slice().reverse().map((event) => {
    const line = make('li');
    const time = make('time', new Date(event.time_ms).toLocaleTimeString('en-GB'));
    time.dateTime = new Date(event.time_ms).toISOString();
    line.append(time, make('span', event.text, event.level));
    return line;
  }));
  if (!events.length) at('events').append(make('li', 'None since the master started.', 'quiet'));
}

// ---- files

const files = { needle: '', pages: [''] };

// The rows of a file, which may go on over several pages, become one line of the table.
function group(rows) {
  const byFile = new Map();
  for (const row of rows) {
    const file = byFile.get(row.file) || { chunks: new Map(), end: 0 };
    byFile.set(row.file, file);
    const key = `${row.offset} ${row.chunk}`;
    const chunk = file.chunks.get(key) || { row, copies: [] };
    file.chunks.set(key, chunk);
    if (row.keeper !== null) chunk.copies.push(row);
    file.end = Math.max(file.end, row.offset + row.length);
  }
  return byFile;
}

function fileLine(name, file) {
  const line = make('tr');
  line.append(make('td', name), make('td', size(file.end), 'number'));
  const live = [...file.chunks.values()].map((chunk) => chunk.copies.filter((copy) => copy.alive).length);
  const least = Math.min(...live);
  const state = least === 0 ? 'bad' : '';
  const cell = make('td');
  const box = make('details');
  const summary = make('summary');
  summary.append(make('span', least === 0 ? 'lost' : `${least} live`, `tag ${state || 'good'}`),
    document.createTextNode(` ${count(file.chunks.size)} ${file.chunks.size === 1 ? 'chunk' : 'chunks'}`));
  const list = make('ul');
  for (const { row, copies } of file.chunks.values()) {
    const held = copies.map((copy) => `keeper ${copy.keeper}${copy.alive ? '' : ' (dead)'}: ${copy.path}`);
    list.append(make('li', `${row.chunk} at ${row.offset}, ${size(row.length)}: ${held.join('; ') || 'no copy'}`));
  }
  box.append(summary, list);
  cell.append(box);
  line.append(cell);
  return line;
}

async function showFiles() {
  const after = files.pages[files.pages.length - 1];
  const query = new URLSearchParams({ search: files.needle, after, limit: PAGE_ROWS });
  const [note, body] = [at('files-note'), document.querySelector('#files tbody')];
  const wanted = `${query}`;
  files.wanted = wanted;
  try {
    note.textContent = 'Looking…';
    const page = await ask(`/api/v1/lookup?${query}`);
    if (files.wanted !== wanted) return;
    const found = [...group(page.rows)];
    body.replaceChildren(...found.map(([name, file]) => fileLine(name, file)));
    files.next = page.next;
    at('more').hidden = !page.next;
    at('back').hidden = files.pages.length < 2;
    const words = found.length ? '' : files.needle ? 'Nothing here has that in its path.' : 'No file has any bytes yet.';
    note.textContent = page.next && !found.length ? 'Nothing found so far; “More” looks further.' : words;
  } catch (error) {
    if (files.wanted === wanted) note.textContent = `${error.message}`;
  }
}

at('search').addEventListener('submit', (event) => {
  event.preventDefault();
  Object.assign(files, { needle: at('needle').value, pages: [''] });
  showFiles();
});
function lookAgain() {
  refresh();
  showFiles();
  goThere();
}

at('by-token').addEventListener('submit', async (event) => {
  event.preventDefault();
  const headers = { Authorization: `Bearer ${at('token').value.trim()}` };
  at('token').value = '';
  await renew({ headers });
  lookAgain();
});
// In the body, never in an address.
at('by-password').addEventListener('submit', async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ user: at('user').value, password: at('password').value });
  at('password').value = '';
  try {
    const headers = { 'Content-Type': 'application/json' };
    const answer = await fetch('/api/v1/login', { method: 'POST', headers, body, signal: AbortSignal.timeout(20000) });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error || answer.statusText);
    begun(said);
    lookAgain();
  } catch (error) {
    at('login-note').textContent = error.message;
    at('password').focus();
  }
});
at('logout').addEventListener('click', async () => {
  await fetch('/api/v1/logout', { method: 'POST', signal: AbortSignal.timeout(20000) });
  // What was shown was for who is gone.
  location.reload();
});
at('more').addEventListener('click', () => { files.pages.push(files.next); showFiles(); });
at('back').addEventListener('click', () => { files.pages.pop(); showFiles(); });

// ---- directories, films

// Each part of the way down: the name for people, and as it stands in an address.
const here = { way: [], after: [''] };
const address = (...more) => `/files/${[...here.way.map((part) => part.href), ...more].join('/')}`;

function go(way) {
  Object.assign(here, { way, after: [''] });
  remember('');
  showDirectory();
}

// The address of the page says where this is, so that it can be sent to somebody: #/films/ or #/films/movie.mp4
const remember = (file) => history.replaceState(null, '', `#/${[...here.way.map((part) => part.href), file].join('/')}`);

async function goThere() {
  const named = (href) => {
    try { return { href, name: decodeURIComponent(href) }; } catch (error) { return { href, name: href }; }
  };
  const parts = location.hash.replace(/^#\/*/, '').split('/');
  const file = parts.pop();
  Object.assign(here, { way: parts.filter((part) => part).map(named), after: [''] });
  const entries = await showDirectory() || [];
  const film = entries.find((entry) => entry.href === file && plays(entry));
  if (film) play(film);
}

const plays = (entry) => entry.kind === 'file' && /^(video|audio)\//.test(entry.type);

function link(words, click) {
  const button = make('button', words, 'link');
  button.type = 'button';
  button.addEventListener('click', click);
  return button;
}

function entryLine(entry) {
  const line = make('tr');
  const name = make('td');
  const what = make('td', entry.kind === 'directory' ? '' : size(entry.size), 'number');
  const act = make('td');
  const where = address(entry.href);
  if (entry.kind === 'directory') {
    name.append(link(`${entry.name}/`, () => go([...here.way, entry])));
  } else {
    name.textContent = entry.name;
  }
  const player = plays(entry);
  if (player) act.append(link('Play', () => play(entry)));
  if (entry.kind === 'file') {
    const open = make('a', player ? 'Save' : 'Open');
    open.href = where;
    if (player) open.download = entry.name;
    else open.target = '_blank';
    act.append(open);
  } else if (entry.kind !== 'directory') {
    act.append(make('span', entry.kind, 'quiet'));
  }
  line.append(name, what, act);
  return line;
}

async function showDirectory() {
  const wanted = `${address('')}?after=${encodeURIComponent(here.after[here.after.length - 1])}`;
  here.wanted = wanted;
  try {
    const page = await ask(wanted);
    if (here.wanted !== wanted) return;
    const steps = here.way.map((part, n) => link(part.name, () => go(here.way.slice(0, n + 1))));
    at('way').replaceChildren(link('/', () => go([])), ...steps);
    document.querySelector('#entries tbody').replaceChildren(...page.entries.map(entryLine));
    here.next = page.next;
    at('entries-more').hidden = !page.next;
    at('entries-back').hidden = here.after.length < 2;
    at('entries-note').textContent = page.entries.length ? '' : 'Nothing is here.';
    return page.entries;
  } catch (error) {
    if (here.wanted === wanted) at('entries-note').textContent = `${error.message}`;
  }
  return undefined;
}

function play(entry) {
  const film = at('film');
  at('player').hidden = false;
  at('playing').textContent = entry.name;
  at('film-note').textContent = '';
  film.src = address(entry.href);
  remember(entry.href);
  // Where the browser wants to be asked first, there is a button.
  film.play().catch(() => {});
  at('player').scrollIntoView({ block: 'nearest' });
}

at('film').addEventListener('error', () => {
  at('film-note').textContent = 'This browser cannot play it, or it cannot be read now. Save it, or mount the cluster.';
});
at('film').addEventListener('loadedmetadata', () => { at('player').dataset.seconds = `${at('film').duration}`; });
at('player-end').addEventListener('click', () => {
  at('film').removeAttribute('src');
  at('film').load();
  at('player').hidden = true;
  remember('');
});
at('entries-more').addEventListener('click', () => { here.after.push(here.next); showDirectory(); });
at('entries-back').addEventListener('click', () => { here.after.pop(); showDirectory(); });

function begun(session) {
  clearTimeout(renew.timer);
  if (session.lasts_s) renew.timer = setTimeout(renew, session.lasts_s * 400);
  at('who').textContent = session.user;
  at('who').hidden = at('logout').hidden = !session.user;
}

// The cookie lives as long as a token: while the page is open there is always a fresh one, so a long film plays on.
async function renew(how) {
  try {
    begun(await ask('/api/v1/session', { method: 'POST', ...how }));
  } catch (error) {
    renew.timer = setTimeout(renew, 30000);
  }
}

// ---- the page

async function refresh() {
  try {
    const now = await ask('/api/v1/overview');
    showFigures(now);
    showHistory(now.history);
    showTrouble(now.trouble);
    showKeepers(now.keepers, now.rates);
    showWork(now);
    showEvents(now.events);
    at('offline').hidden = true;
  } catch (error) {
    const asked = !at('login').hidden;
    at('offline').hidden = asked;
    at('health').textContent = asked ? 'log in' : 'no answer';
    at('health').className = 'pill bad';
  }
  document.body.dataset.shown = `${Date.now()}`;
}

async function poll() {
  await refresh();
  setTimeout(poll, POLL_MS);
}

renew();
poll();
showFiles();
goThere();
addEventListener('hashchange', goThere);
