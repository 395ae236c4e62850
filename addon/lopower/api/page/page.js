// Shows what the gateway knows of this device and measures the tunnel from here.
const $ = (id) => document.getElementById(id);

function fact(term, text) {
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = term;
  dd.textContent = text;
  $("facts").append(dt, dd);
}

function line(list, text, note = "") {
  const li = document.createElement("li");
  li.append(document.createElement("span"), document.createElement("span"));
  [li.firstChild.textContent, li.lastChild.textContent] = [text, note];
  $(list).append(li);
  return li;
}

// The median of five round trips, the first of which also opens the connection and is left out.
async function roundTrip(origin) {
  const times = [];
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    const answer = await fetch(`${origin}/ping`, {
      cache: "no-store",
      signal: AbortSignal.timeout(3000),
    });
    await answer.arrayBuffer();
    times.push(performance.now() - start);
  }
  return times.slice(1).sort((a, b) => a - b)[2];
}

async function check(text, origin) {
  const li = line("checks", text, "…");
  try {
    const time = await roundTrip(origin);
    li.lastChild.textContent = `${time.toFixed(time < 10 ? 1 : 0)} ms`;
    li.className = "good";
  } catch {
    li.lastChild.textContent = "no answer";
    li.className = "bad";
  }
}

const who = await (await fetch("who", { cache: "no-store" })).json();
document.title = `${who.name} – LoPower`;
$("name").textContent = who.name;
fact("Addresses", who.addresses.join("\n"));
fact("Name", who.dns_name);
fact("Seen at", who.endpoint ?? "unknown");
fact("Handshake", who.handshake_age === null ? "none yet" : `${Math.round(who.handshake_age)} s ago`);
fact("Gateway", who.gateway.join("\n"));
for (const rule of who.reach) line("rules", rule);
if (!who.reach.length) line("rules", "The gateway itself, its DNS and this page");
for (const address of who.gateway) {
  const six = address.includes(":");
  await check(six ? "IPv6 through the tunnel" : "IPv4 through the tunnel", `http://${six ? `[${address}]` : address}`);
}
await check("Names (DNS)", `http://${who.gateway_name}`);
