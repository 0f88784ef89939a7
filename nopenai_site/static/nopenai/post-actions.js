// Unfold draws a page's actions as links. Those marked data-post change something, so they are sent as a form with
// the CSRF token instead: a link that changes state could be followed from anywhere.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-post]");
  if (!link) return;
  event.preventDefault();
  const form = document.createElement("form");
  const token = document.createElement("input");
  const cookie = document.cookie.split("; ").find((entry) => entry.startsWith("nopenai_csrf="));
  form.method = "post";
  form.action = link.href;
  form.hidden = true;
  token.type = "hidden";
  token.name = "csrfmiddlewaretoken";
  token.value = cookie ? cookie.slice("nopenai_csrf=".length) : "";
  form.append(token);
  document.body.append(form);
  form.submit();
});
